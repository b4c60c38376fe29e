// Weighted features and the convolution behind them.
//
// The features of a group of output pixels are made by the kernels, channel by
// channel, and meet the last convolution as a matrix product, which torch's
// BLAS does. Nothing of size C * K * Ho * Wo exists at any time.

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <vector>

#include "groups.h"
#include "operators.h"
#include "tensors.h"

namespace mmrfa {
namespace {

// Features of a group. In forward every thread has groups of its own, unless
// they would have fewer than `kFewestPixels`, over which matrix products are
// slow: then, and in backward, all threads work on one group. Products over
// more pixels than the `most` are no faster, and leave the nearest cache.
struct Size {
  int64_t bytes, most;
};
constexpr Size kEach = {2 << 20, 288};
constexpr Size kShared = {4 << 20, 896};
constexpr int64_t kFewestPixels = 112;

std::vector<Group> groups_of(const Tensor& x, const Geometry& g, Size size,
                             int64_t threads) {
  const int64_t bytes = x.size(1) * g.taps() * x.element_size();
  return groups_of(x.size(0), g, bytes, std::min(size.bytes, size.most * bytes),
                   kFewestPixels, threads);
}

// Everything but the last convolution.
struct Weighted : Learned {
  // Gates of the features, undefined where there is none, and their gradients.
  // Of that by position every thread has one of its own.
  Tensor channel, position, row, column;
  Tensor grad_channel, grad_position, grad_row, grad_column;

  Weighted(const Tensor& x, const OptionalTensor& gains,
           const Tensor& feature_weight, const Tensor& feature_shift,
           const Geometry& g, bool unfold)
      : Learned(x, feature_weight, feature_shift, g) {
    gain = checked("gain", gains, {x.size(1), g.taps()});
    TORCH_CHECK(!(unfold && gain.defined()),
                "mmrfa: expected no gain with unfold, got one");
    if (unfold) form = Form::kUnfold;
    if (gain.defined()) form = Form::kAttention;
  }

  void add_gates(const OptionalTensor& channels,
                 const OptionalTensor& positions, const OptionalTensor& rows,
                 const OptionalTensor& columns) {
    const Geometry& g = geometry;
    const int64_t n = x.size(0), c = x.size(1);
    channel = checked("channel_gate", channels, {n, c});
    position = checked("position_gate", positions,
                       {n, g.taps(), g.out_height, g.out_width});
    row = checked("row_gate", rows, {n, c, g.kh, g.out_height});
    column = checked("column_gate", columns, {n, c, g.kw, g.out_width});
    TORCH_CHECK(channel.defined() == position.defined() &&
                    row.defined() == column.defined() &&
                    !(channel.defined() && row.defined()),
                "mmrfa: expected channel_gate and position_gate, or row_gate "
                "and column_gate, or none");
    TORCH_CHECK(!gated() || form == Form::kFeatures,
                "mmrfa: expected no gates with gain or unfold, got some");
  }

  void want_gradients() {
    Learned::want_gradients();
    if (channel.defined()) {
      grad_channel = at::zeros_like(channel);
      std::vector<int64_t> sizes = position.sizes().vec();
      sizes.insert(sizes.begin(), at::get_num_threads());
      grad_position = at::zeros(sizes, position.options());
    }
    if (row.defined()) {
      grad_row = at::zeros_like(row);
      grad_column = at::zeros_like(column);
    }
  }

  bool gated() const { return channel.defined() || row.defined(); }
};

// Applies the gates to y, the K rows of channel c of a group.
template <typename T>
void run_gates(const Weighted& p, const Group& group, int64_t c, T* y,
               T* grad_y) {
  const Geometry& g = p.geometry;
  for (int64_t n = 0; n < group.images; ++n) {
    const int64_t image = group.image + n, plane = image * p.x.size(1) + c;
    const int64_t from = n * group.rows * g.out_width;
    Gates<T> f{};
    f.geometry = g;
    f.first = group.row;
    f.rows = group.rows;
    f.y = y + from;
    f.grad_y = grad_y == nullptr ? nullptr : grad_y + from;
    f.pitch = group.images * group.rows * g.out_width;
    if (p.channel.defined()) {
      const int64_t at =
          image * g.taps() * g.pixels() + group.row * g.out_width;
      const int64_t thread = at::get_thread_num() * p.position.numel();
      f.channel = at_offset(p.channel, plane);
      f.position = at_offset(p.position, at);
      f.position_pitch = g.pixels();
      f.grad_channel = at_offset(p.grad_channel, plane);
      f.grad_position = at_offset(p.grad_position, thread + at);
    } else {
      const int64_t rows = plane * g.kh * g.out_height;
      const int64_t columns = plane * g.kw * g.out_width;
      f.row = at_offset(p.row, rows);
      f.column = at_offset(p.column, columns);
      f.grad_row = at_offset(p.grad_row, rows);
      f.grad_column = at_offset(p.grad_column, columns);
    }
    gate(f);
  }
}

// Features of a group as a (C * K, pixels) matrix y. In backward y holds their
// gradient before.
template <typename T>
void run_features(const Weighted& p, const Group& group, T* y,
                  bool backward) {
  const int64_t channels = p.x.size(1);
  const bool twice = p.gated() && backward;
  const int64_t size = p.geometry.taps() * group.images * group.rows *
                       p.geometry.out_width;
  at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> memory(twice ? size : 0);
    for (int64_t c = begin; c < end; ++c) {
      Features<T> f = features_of<T>(p, group, c);
      f.y = y + c * size;
      if (twice) {
        // The gates need the features before their gradient is known.
        T* gradient = f.y;
        f.y = memory.data();
        features(f);
        run_gates<T>(p, group, c, memory.data(), gradient);
        f.y = nullptr;
        f.grad_y = gradient;
        features(f);
        std::copy(memory.begin(), memory.end(), gradient);
        continue;
      }
      if (backward) f.grad_y = f.y;
      features(f);
      if (p.gated()) run_gates<T>(p, group, c, f.y, nullptr);
    }
  });
}

void features_of_group(const Weighted& p, const Group& group, const Tensor& y,
                       bool backward) {
  by_type(p.x, [&](auto element) {
    using T = decltype(element);
    run_features<T>(p, group, elements<T>(y), backward);
  });
}

// The weight of the last convolution as (groups, O / groups, C / groups * K).
Tensor checked_matrices(const Tensor& weight, const Tensor& x, int64_t groups) {
  check_type("weight", weight, {at::kFloat, x.scalar_type()});
  const int64_t channels = x.size(1), out = weight.size(0);
  TORCH_CHECK(groups > 0 && channels % groups == 0 && out % groups == 0 &&
                  out > 0 && weight.size(1) == channels / groups,
              "mmrfa: expected weight of shape (O, ", channels,
              " / groups, kh, kw), both divisible by groups, got ",
              weight.sizes(), " and ", groups, " groups");
  return weight.to(x.scalar_type()).reshape({groups, out / groups, -1});
}

Geometry checked_geometry_of(const Tensor& x, const Tensor& weight,
                             IntArrayRef stride, IntArrayRef padding,
                             IntArrayRef dilation) {
  TORCH_CHECK(weight.dim() == 4,
              "mmrfa: expected weight of shape (O, C / groups, kh, kw), got ",
              weight.sizes());
  return checked_geometry(x, weight.sizes().slice(2), stride, padding,
                          dilation);
}

// Memory for the features of the largest group, taken once: fresh pages are
// slow.
Tensor memory_for(const std::vector<Group>& work, int64_t rows,
                  const Geometry& g, const Tensor& x) {
  int64_t most = 0;
  for (const Group& group : work)
    most = std::max(most, group.images * group.rows * g.out_width);
  return at::empty({rows * most}, x.options());
}

// Of it a (groups, rows, pixels) matrix.
Tensor matrix_in(const Tensor& memory, const Tensor& matrices,
                 const Group& group, const Geometry& g) {
  const int64_t pixels = group.images * group.rows * g.out_width;
  const int64_t sizes[] = {matrices.size(0), matrices.size(2), pixels};
  return memory.narrow(0, 0, sizes[0] * sizes[1] * sizes[2]).view(sizes);
}

}  // namespace

Tensor rf_conv(const Tensor& x, const OptionalTensor& gain,
               const Tensor& feature_weight, const Tensor& feature_shift,
               const Tensor& weight, const OptionalTensor& bias,
               const OptionalTensor& channel_gate,
               const OptionalTensor& position_gate,
               const OptionalTensor& row_gate,
               const OptionalTensor& column_gate, IntArrayRef stride,
               IntArrayRef padding, IntArrayRef dilation, int64_t groups,
               bool unfold) {
  const Geometry g = checked_geometry_of(x, weight, stride, padding, dilation);
  Weighted p(x, gain, feature_weight, feature_shift, g, unfold);
  p.add_gates(channel_gate, position_gate, row_gate, column_gate);
  const Tensor matrices = checked_matrices(weight, x, groups);
  const int64_t channels = matrices.size(1);
  Tensor shift = at::zeros({groups, channels, 1}, p.x.options());
  if (bias.has_value())
    shift.view(-1).copy_(checked("bias", *bias, {weight.size(0)},
                                 {at::kFloat, x.scalar_type()}));
  const Tensor out = at::empty(
      {x.size(0), weight.size(0), g.out_height, g.out_width},
      p.x.options());
  const int64_t threads = at::get_num_threads();
  std::vector<Group> work = groups_of(x, g, kEach, threads);
  const bool shared =
      static_cast<int64_t>(work.size()) < threads ||
      work.front().images * work.front().rows * g.out_width < kFewestPixels;
  if (shared) work = groups_of(x, g, kShared, 1);
  auto run = [&](int64_t begin, int64_t end) {
    // Autograd keeps its state per thread, and has no part in this.
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor memory =
        memory_for(work, groups * matrices.size(2), g, p.x);
    for (int64_t index = begin; index < end; ++index) {
      const Group& group = work[index];
      const Tensor y = matrix_in(memory, matrices, group, g);
      features_of_group(p, group, y, false);
      for (int64_t i = 0; i < groups; ++i) {
        const Tensor target =
            part_of(out.narrow(1, i * channels, channels), group);
        if (group.images == 1) {
          Tensor flat = target[0].flatten(1);
          at::addmm_out(flat, shift[i], matrices[i], y[i]);
        } else {
          target.copy_(
              at::addmm(shift[i], matrices[i], y[i])
                  .view({channels, group.images, group.rows, g.out_width})
                  .transpose(0, 1));
        }
      }
    }
  };
  // A parallel region inside another one is serial.
  if (shared)
    run(0, work.size());
  else
    at::parallel_for(0, work.size(), 1, run);
  return out.contiguous(format_of(x));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
           Tensor>
rf_conv_backward(const Tensor& grad, const Tensor& x,
                 const OptionalTensor& gain, const Tensor& feature_weight,
                 const Tensor& feature_shift, const Tensor& weight,
                 const OptionalTensor& channel_gate,
                 const OptionalTensor& position_gate,
                 const OptionalTensor& row_gate,
                 const OptionalTensor& column_gate, IntArrayRef stride,
                 IntArrayRef padding, IntArrayRef dilation, int64_t groups,
                 bool unfold) {
  const Geometry g = checked_geometry_of(x, weight, stride, padding, dilation);
  Weighted p(x, gain, feature_weight, feature_shift, g, unfold);
  p.add_gates(channel_gate, position_gate, row_gate, column_gate);
  p.want_gradients();
  const Tensor matrices = checked_matrices(weight, x, groups);
  const int64_t channels = matrices.size(1);
  const Tensor of_out = checked(
      "the gradient", grad,
      {x.size(0), weight.size(0), g.out_height, g.out_width},
      {x.scalar_type()});
  const std::vector<Group> work = groups_of(x, g, kShared, 1);
  // The first group writes it: zeros would be another pass over fresh pages.
  const auto options = p.weight.options();
  const Tensor grad_weight = work.empty()
                                 ? at::zeros(matrices.sizes(), options)
                                 : at::empty(matrices.sizes(), options);
  const Tensor memory = memory_for(work, groups * matrices.size(2), g, p.x);
  for (const Group& group : work) {
    // First the gradient of the features, then the features in its place.
    const Tensor y = matrix_in(memory, matrices, group, g);
    const Tensor grads = pixels_of(of_out, group);
    for (int64_t i = 0; i < groups; ++i) {
      Tensor target = y[i];
      at::mm_out(target, matrices[i].t(),
                 grads.narrow(0, i * channels, channels));
    }
    features_of_group(p, group, y, true);
    for (int64_t i = 0; i < groups; ++i) {
      const Tensor target = grad_weight[i];
      const Tensor part = grads.narrow(0, i * channels, channels);
      const bool first = &group == &work.front();
      if (x.scalar_type() == at::kFloat)
        target.addmm_(part, y[i].t(), first ? 0 : 1);
      else if (first)
        target.copy_(at::mm(part, y[i].t()));
      else
        target.add_(at::mm(part, y[i].t()));
    }
  }
  auto or_empty = [&](const Tensor& t) {
    return t.defined() ? t : at::empty({0}, x.options());
  };
  return {as_input(p.grad_x, x),
          or_empty(p.grad_gain),
          p.grad_weight,
          p.grad_shift,
          grad_weight.view(weight.sizes()).to(weight.scalar_type()),
          or_empty(p.grad_channel),
          or_empty(p.grad_position.defined() ? p.grad_position.sum(0)
                                             : p.grad_position),
          or_empty(p.grad_row),
          or_empty(p.grad_column)};
}

}  // namespace mmrfa
