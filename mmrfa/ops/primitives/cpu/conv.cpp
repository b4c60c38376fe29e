// Weighted features and the convolution behind them.
//
// The features of some output pixels are made by the kernels, channel by
// channel, in panels as a product takes them. They meet the last convolution a
// few channels at a time, while they are in a near cache: nothing of size
// C * K * Ho * Wo exists at any time. Arithmetic is in float32 for all types.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "blocks.h"
#include "operators.h"
#include "weighted.h"

namespace mmrfa {
namespace {

// Of the gradient of the output, laid out at a time for as many groups of
// pixels as that is: between them threads wait for each other.
constexpr int64_t kBytes = 8 << 20;

// The weight of the last convolution as (groups, O / groups, C / groups * K).
Tensor checked_matrices(const Tensor& weight, const Tensor& x, int64_t groups) {
  check_type("weight", weight, {at::kFloat, x.scalar_type()});
  const int64_t channels = x.size(1), out = weight.size(0);
  TORCH_CHECK(groups > 0 && channels % groups == 0 && out % groups == 0 &&
                  out > 0 && weight.size(1) == channels / groups,
              "mmrfa: expected weight of shape (O, ", channels,
              " / groups, kh, kw), both divisible by groups, got ",
              weight.sizes(), " and ", groups, " groups");
  return weight.to(at::kFloat).reshape({groups, out / groups, -1}).contiguous();
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

// A (N, channels, Ho, Wo) tensor at the first pixel of a group, of a channel.
float* pixels_of(const Tensor& t, const Group& group, const Geometry& g,
                 int64_t channel) {
  return at_offset(t, group.image * t.stride(0) + channel * g.pixels() +
                          group.row * g.out_width);
}

// The sums over the features y of a block, in `out`.
Product sums(const Block& block, const Tensor& matrices, const float* y,
             float* out, const float* bias) {
  Product q{};
  q.rows = matrices.size(1);
  q.depth = q.run = block.depth();
  q.left = at_offset(matrices, block.part * matrices.stride(0) +
                                   block.first * block.taps);
  q.row_step = matrices.stride(1);
  q.step = 1;
  q.right = y;
  q.panel = block.panel();
  q.vectors = block.columns.vectors;
  q.at = block.columns.at.data();
  q.size = block.columns.size.data();
  q.out = out;
  q.pitch = block.geometry.pixels();
  q.add = block.first > 0;
  q.start = bias;
  return q;
}

// Its rows, by threads; serial inside another parallel region.
void run_by_rows(const Product& p) {
  constexpr int64_t kRows = 8;
  at::parallel_for(
      0, divide_up(p.rows, kRows), 1, [&](int64_t begin, int64_t end) {
        Product part = p;
        const int64_t row = begin * kRows;
        part.rows = std::min(end * kRows, p.rows) - row;
        part.left += row * p.row_step;
        part.out += row * p.pitch;
        if (p.start != nullptr) part.start += row;
        product(part);
      });
}

// The gradient of the output over the pixels of a group: in panels, for that of
// the features, and turned, for that of the weight.
struct OutGradient {
  Tensor panels, turned;  // (parts, rows, columns), `turned` in whole panels
  std::vector<int64_t> at, size;  // of every vector of rows

  OutGradient(int64_t parts, int64_t rows, int64_t columns,
              const at::TensorOptions& options)
      : panels(at::empty({parts, rows, columns}, options)),
        turned(at::empty({parts, round_up(rows, panel_width()), columns},
                         options)) {
    for (int64_t row = 0; row < rows; row += lanes()) {
      at.push_back(row);
      size.push_back(std::min(lanes(), rows - row));
    }
  }

  int64_t bytes() const {
    return static_cast<int64_t>(panels.nbytes() + turned.nbytes());
  }

  void fill(const Tensor& grad, const Group& group, const Geometry& g,
            const Columns& columns) {
    for (int64_t part = 0; part < panels.size(0); ++part) {
      Panels f{};
      f.rows = panels.size(1);
      f.pitch = g.pixels();
      f.from = pixels_of(grad, group, g, part * f.rows);
      f.vectors = columns.vectors;
      f.at = columns.at.data();
      f.size = columns.size.data();
      f.panels = at_offset(panels, part * panels.stride(0));
      f.turned = at_offset(turned, part * turned.stride(0));
      to_panels(f);
    }
  }

  // The gradient of the features of a block, in y.
  void to_features(const Block& block, const Tensor& matrices,
                   float* y) const {
    const int64_t rows = matrices.size(1), width = panel_width();
    const int64_t vectors = block.columns.vectors;
    std::vector<int64_t> places, whole(vectors, lanes());
    for (int64_t v = 0; v < vectors; ++v)
      places.push_back(v / kVectors * block.panel() +
                       v % kVectors * lanes());
    for (int64_t row = 0; row < rows; row += kFeatures) {
      Product q{};
      q.rows = block.depth();
      q.depth = q.run = std::min(kFeatures, rows - row);
      q.left = at_offset(matrices, block.part * matrices.stride(0) +
                                       row * matrices.stride(1) +
                                       block.first * block.taps);
      q.row_step = 1;
      q.step = matrices.stride(1);
      q.right =
          at_offset(panels, block.part * panels.stride(0) + row * width);
      q.panel = rows * width;
      q.vectors = vectors;
      q.at = places.data();
      q.size = whole.data();
      q.out = y;
      q.pitch = width;
      q.add = row > 0;
      product(q);
    }
  }

  // That of the weight, from the features of a block.
  void to_weight(const Block& block, const float* y, const Tensor& matrices,
                 bool add) const {
    Product q{};
    q.rows = block.depth();
    q.depth = block.columns.count();
    q.left = y;
    q.row_step = q.run = panel_width();
    q.step = 1;
    q.run_step = block.panel();
    q.right = at_offset(turned, block.part * turned.stride(0));
    q.panel = block.columns.count() * panel_width();
    q.vectors = at.size();
    q.at = at.data();
    q.size = size.data();
    q.out = at_offset(matrices, block.part * matrices.stride(0) +
                                    block.first * block.taps);
    q.pitch = matrices.stride(1);
    q.turned = true;
    q.add = add;
    product(q);
  }
};

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
  Tensor start;
  if (bias.has_value())
    start = checked("bias", *bias, {weight.size(0)},
                    {at::kFloat, x.scalar_type()})
                .to(at::kFloat);
  const Tensor out = at::empty(
      {x.size(0), weight.size(0), g.out_height, g.out_width},
      matrices.options());
  const int64_t rows = matrices.size(1), channels = x.size(1) / groups;
  const int64_t threads = at::get_num_threads();
  const std::vector<Group> work = groups_of(x.size(0), g, threads);
  const int64_t together = channels_at_once(g, channels, 1);
  const int64_t size = together * g.taps() * Columns::most(work, g);
  const Tensor memory = at::empty({threads, size}, matrices.options());
  auto run = [&](int64_t index) {
    const Group& group = work[index];
    const Columns columns(group, g, weight.size(0));
    float* y = at_offset(memory, at::get_thread_num() * size);
    for (int64_t part = 0; part < groups; ++part)
      for (int64_t c = 0; c < channels; c += together) {
        const Block block{g, group, columns, part, c,
                          std::min(together, channels - c),
                          part * channels + c};
        at::parallel_for(0, block.channels, 1, [&](int64_t from, int64_t to) {
          for (int64_t i = from; i < to; ++i)
            run_features(p, block, i, y, y, false);
        });
        run_by_rows(sums(block, matrices, y,
                         pixels_of(out, group, g, part * rows),
                         at_offset(start, part * rows)));
      }
  };
  // Every thread has groups of its own, unless there are too few of them.
  const int64_t count = work.size();
  if (count < threads)
    for (int64_t index = 0; index < count; ++index) run(index);
  else {
    // Whoever is ready takes the next one: cores differ, or serve others too.
    std::atomic<int64_t> next{0};
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      for (int64_t index = next++; index < count; index = next++) run(index);
    });
  }
  return as_input(out, x);
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
  const Tensor of_out =
      checked("the gradient", grad,
              {x.size(0), weight.size(0), g.out_height, g.out_width},
              {x.scalar_type()})
          .to(at::kFloat);
  const int64_t channels = x.size(1) / groups;
  const int64_t threads = at::get_num_threads();
  const std::vector<Group> work = groups_of(x.size(0), g, 1);
  const int64_t most = Columns::most(work, g);
  const int64_t together = channels_at_once(g, channels, threads);
  const int64_t blocks = divide_up(channels, together);
  const int64_t size = together * g.taps() * most;
  const auto options = matrices.options();
  const Tensor memory = at::empty({threads, p.gated() ? 2 : 1, size}, options);
  // The first group writes it: zeros would be another pass over fresh pages.
  const Tensor grad_weight = work.empty()
                                 ? at::zeros(matrices.sizes(), options)
                                 : at::empty(matrices.sizes(), options);
  // All threads work on the same groups, on channels of their own.
  const int64_t count = work.size();
  std::vector<OutGradient> gradients;
  for (int64_t bytes = 0; static_cast<int64_t>(gradients.size()) < count &&
                          bytes < kBytes;
       bytes += gradients.back().bytes())
    gradients.emplace_back(groups, matrices.size(1), most, options);
  const int64_t at_once = gradients.size();
  for (int64_t first = 0; first < count; first += at_once) {
    const int64_t some = std::min(at_once, count - first);
    std::vector<Columns> columns;
    for (int64_t i = 0; i < some; ++i)
      columns.emplace_back(work[first + i], g, weight.size(0));
    at::parallel_for(0, some, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        gradients[i].fill(of_out, work[first + i], g, columns[i]);
    });
    at::parallel_for(0, groups * blocks, 1, [&](int64_t begin, int64_t end) {
      float* y = at_offset(memory, at::get_thread_num() * memory.stride(0));
      float* values = p.gated() ? y + size : y;
      for (int64_t index = begin; index < end; ++index) {
        const int64_t part = index / blocks, c = index % blocks * together;
        for (int64_t i = 0; i < some; ++i) {
          const Block block{g, work[first + i], columns[i], part, c,
                            std::min(together, channels - c),
                            part * channels + c};
          gradients[i].to_features(block, matrices, y);
          for (int64_t j = 0; j < block.channels; ++j)
            run_features(p, block, j, y, values, true);
          gradients[i].to_weight(block, values, grad_weight, first + i > 0);
        }
      }
    });
  }
  auto or_empty = [&](const Tensor& t) {
    return t.defined() ? t : at::empty({0}, x.options());
  };
  return {as_input(p.grad_x, x),
          or_empty(p.grad_gain),
          p.grad_weight.to(feature_weight.scalar_type()),
          p.grad_shift.to(feature_shift.scalar_type()),
          grad_weight.view(weight.sizes()).to(weight.scalar_type()),
          or_empty(p.grad_channel),
          or_empty(p.grad_position.defined() ? p.grad_position.sum(0)
                                             : p.grad_position),
          or_empty(p.grad_row),
          or_empty(p.grad_column)};
}

}  // namespace mmrfa
