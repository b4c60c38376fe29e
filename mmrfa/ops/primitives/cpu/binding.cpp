// The receptive-field kernels as torch operators for the CPU.
//
// Everything works in groups of output pixels small enough for a cache: the
// features of a group are made by the kernels, channel by channel, and meet
// the last convolution as a matrix product, which torch's BLAS does. Nothing
// of size C * K * Ho * Wo exists at any time.

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>
#include <torch/types.h>

#include <cstdlib>

#include "kernels.h"

namespace mmrfa {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Features of a group. In forward every thread has groups of its own, unless
// they would have fewer than `kFewestPixels`, over which matrix products are
// slow: then, and in backward, all threads work on one group.
constexpr int64_t kOwnBytes = 2 << 20;
constexpr int64_t kSharedBytes = 4 << 20;
constexpr int64_t kFewestPixels = 112;

// MMRFA_AVX512=0 is for tests of the other kernels.
bool has_avx512() {
  static const char* wish = std::getenv("MMRFA_AVX512");
  static const bool found = (wish == nullptr || std::string(wish) != "0") &&
                            __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512dq");
  return found;
}

std::string instruction_set() {
  if (has_avx512()) return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return "avx2";
  return "";
}

// For the loader: mmrfa/ops/native_build.py.
std::string sources_digest() { return MMRFA_SOURCES; }

// at::parallel_for is serial, silently, in code compiled without OpenMP.
bool uses_threads() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

Geometry geometry_of(const Tensor& x, at::IntArrayRef kernel,
                     at::IntArrayRef stride, at::IntArrayRef padding,
                     at::IntArrayRef dilation) {
  Geometry g{x.size(2),   x.size(3),   0,           0,
             kernel[0],   kernel[1],   stride[0],   stride[1],
             padding[0],  padding[1],  dilation[0], dilation[1]};
  g.out_height = (g.height + 2 * g.ph - g.dh * (g.kh - 1) - 1) / g.sh + 1;
  g.out_width = (g.width + 2 * g.pw - g.dw * (g.kw - 1) - 1) / g.sw + 1;
  TORCH_CHECK(g.out_height > 0 && g.out_width > 0,
              "expected an input of at least the dilated kernel, got ",
              x.sizes());
  TORCH_CHECK(g.taps() <= kMostTaps, "expected at most ", kMostTaps,
              " taps, got ", g.taps());
  return g;
}

// Some images times some output rows, worked on at a time.
struct Group {
  int64_t image, images, row, rows, pixels;
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Groups of about `bytes`, of even size, their number a multiple of `threads`
// where that is possible.
std::vector<Group> groups_of(int64_t images, const Geometry& g,
                             int64_t pixel_bytes, int64_t bytes,
                             int64_t threads) {
  const int64_t pixels =
      std::max(bytes / std::max<int64_t>(pixel_bytes, 1), kFewestPixels);
  int64_t together = std::max<int64_t>(
      1, pixels / (g.out_height * g.out_width));
  const int64_t parts = divide_up(images, together);
  together = divide_up(
      images, std::min(images, divide_up(parts, threads) * threads));
  int64_t rows = g.out_height;
  if (together == 1) {
    const int64_t fit = std::max<int64_t>(1, pixels / g.out_width);
    rows = divide_up(g.out_height, divide_up(g.out_height, fit));
  }
  std::vector<Group> groups;
  for (int64_t n = 0; n < images; n += together)
    for (int64_t row = 0; row < g.out_height; row += rows) {
      Group group{n, std::min(together, images - n), row,
                  std::min(rows, g.out_height - row), 0};
      group.pixels = group.images * group.rows * g.out_width;
      groups.push_back(group);
    }
  return groups;
}

// The (channels, pixels) matrix of a group in a (N, channels, Ho, Wo) tensor.
// Only for whole images can it be more than one image, and then it is a copy.
Tensor pixels_of(const Tensor& t, const Group& group) {
  const Tensor part =
      t.narrow(0, group.image, group.images).narrow(2, group.row, group.rows);
  if (group.images == 1)
    return part[0].flatten(1);
  return part.transpose(0, 1).flatten(1);
}

template <typename T>
T* elements(const Tensor& t) {
  return t.defined() ? reinterpret_cast<T*>(t.data_ptr()) : nullptr;
}

// Everything the kernels take besides the group.
struct Parameters {
  Geometry geometry;
  Form form;
  Tensor x, gain, weight, shift;  // (N,C,H,W); (C,K) or undefined; (C,K,K)...
  Tensor grad_x, grad_gain, grad_weight, grad_shift;  // undefined: forward
  // Gates of the features, or undefined: (N,C) and (N,K,Ho,Wo), or else
  // (N,C,kh,Ho) and (N,C,kw,Wo). Of the gradient of a (N,K,Ho,Wo) every
  // thread has one of its own.
  Tensor first, second, grad_first, grad_second;
  bool by_channel() const { return first.dim() == 2; }
};

float* at_offset(const Tensor& t, int64_t offset) {
  return t.defined() ? t.data_ptr<float>() + offset : nullptr;
}

// Channel c of some rows of some images of x.
template <typename T>
Channel<T> channel_of(const Tensor& x, const Tensor& grad_x, const Geometry& g,
                      const Group& group, int64_t c) {
  const int64_t step = x.stride(0);
  const int64_t from = group.image * step + c * g.height * g.width;
  return {g,
          group.images,
          group.row,
          group.rows,
          step,
          elements<T>(x) + from,
          at_offset(grad_x, from)};
}

// Applies the gates to y, the K rows of channel c of a group.
template <typename T>
void run_gates(const Parameters& p, const Group& group, int64_t c, T* y,
               T* grad_y) {
  const Geometry& g = p.geometry;
  const int64_t pixels = g.out_height * g.out_width;
  for (int64_t n = 0; n < group.images; ++n) {
    const int64_t image = group.image + n, of_channel = image * p.x.size(1) + c;
    Gates<T> f{};
    f.geometry = g;
    f.first = group.row;
    f.rows = group.rows;
    const int64_t from = n * group.rows * g.out_width;
    f.y = y + from;
    f.grad_y = grad_y == nullptr ? nullptr : grad_y + from;
    f.pitch = group.pixels;
    if (p.by_channel()) {
      const int64_t at =
          image * g.taps() * pixels + group.row * g.out_width;
      const int64_t thread = at::get_thread_num();
      f.channel = at_offset(p.first, of_channel);
      f.spatial = at_offset(p.second, at);
      f.spatial_pitch = pixels;
      f.grad_channel = at_offset(p.grad_first, of_channel);
      f.grad_spatial = at_offset(
          p.grad_second,
          thread * p.x.size(0) * g.taps() * pixels + at);
    } else {
      const int64_t lines = of_channel * g.kh * g.out_height;
      const int64_t columns = of_channel * g.kw * g.out_width;
      f.lines = at_offset(p.first, lines);
      f.columns = at_offset(p.second, columns);
      f.grad_lines = at_offset(p.grad_first, lines);
      f.grad_columns = at_offset(p.grad_second, columns);
    }
    has_avx512() ? avx512::gate(f) : avx2::gate(f);
  }
}

// Features of a group as a (C * K, pixels) matrix y. In backward y holds their
// gradient before.
template <typename T>
void run_features(const Parameters& p, const Group& group, T* y,
                  bool backward) {
  const int64_t channels = p.x.size(1), taps = p.geometry.taps();
  const bool wide = has_avx512(), gated = p.first.defined();
  const int64_t size = taps * group.pixels;
  at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> memory(gated && backward ? size : 0);
    for (int64_t c = begin; c < end; ++c) {
      Features<T> f{};
      f.channel = channel_of<T>(p.x, p.grad_x, p.geometry, group, c);
      f.form = p.form;
      f.weight = at_offset(p.weight, c * taps * taps);
      f.shift = at_offset(p.shift, c * taps);
      f.gain = at_offset(p.gain, c * taps);
      f.y = y + c * size;
      f.pitch = group.pixels;
      f.step = group.rows * p.geometry.out_width;
      if (backward) {
        f.grad_y = f.y;
        f.grad_weight = at_offset(p.grad_weight, c * taps * taps);
        f.grad_shift = at_offset(p.grad_shift, c * taps);
        f.grad_gain = at_offset(p.grad_gain, c * taps);
      }
      if (gated && backward) {
        // The gates need the features before their gradient is known.
        Features<T> again = f;
        again.grad_y = nullptr;
        again.y = memory.data();
        wide ? avx512::features(again) : avx2::features(again);
        run_gates<T>(p, group, c, memory.data(), f.y);
        f.y = nullptr;
        wide ? avx512::features(f) : avx2::features(f);
        std::copy(memory.begin(), memory.end(), y + c * size);
        continue;
      }
      wide ? avx512::features(f) : avx2::features(f);
      if (gated) run_gates<T>(p, group, c, f.y, nullptr);
    }
  });
}

void features_of_group(const Parameters& p, const Group& group,
                       const Tensor& y, bool backward) {
  p.x.scalar_type() == at::kFloat
      ? run_features<float>(p, group, elements<float>(y), backward)
      : run_features<uint16_t>(p, group, elements<uint16_t>(y), backward);
}

Parameters parameters(const Tensor& x, const OptionalTensor& gain,
                      const Tensor& weight, const Tensor& shift,
                      const Geometry& g, Form form, bool backward) {
  const int64_t c = x.size(1), k = g.taps();
  TORCH_CHECK(weight.sizes() == at::IntArrayRef({c, k, k}) &&
                  shift.sizes() == at::IntArrayRef({c, k}),
              "expected feature weights (", c, ", ", k, ", ", k,
              ") and shifts (", c, ", ", k, "), got ", weight.sizes(), " and ",
              shift.sizes());
  Parameters p{};
  p.geometry = g;
  p.form = form;
  p.x = x.contiguous();
  p.weight = weight.contiguous();
  p.shift = shift.contiguous();
  if (gain.has_value()) p.gain = gain->contiguous();
  if (backward) {
    p.grad_x = at::zeros(x.sizes(), shift.options());
    p.grad_weight = at::zeros_like(p.weight);
    p.grad_shift = at::zeros_like(p.shift);
    if (gain.has_value()) p.grad_gain = at::zeros_like(p.gain);
  }
  return p;
}

void add_gates(Parameters& p, const OptionalTensor& first,
               const OptionalTensor& second, bool backward) {
  if (!first.has_value()) return;
  const Geometry& g = p.geometry;
  const int64_t n = p.x.size(0), c = p.x.size(1), k = g.taps();
  p.first = first->contiguous();
  p.second = second.value().contiguous();
  const bool fit =
      p.by_channel()
          ? p.first.sizes() == at::IntArrayRef({n, c}) &&
                p.second.sizes() ==
                    at::IntArrayRef({n, k, g.out_height, g.out_width})
          : p.first.sizes() == at::IntArrayRef({n, c, g.kh, g.out_height}) &&
                p.second.sizes() ==
                    at::IntArrayRef({n, c, g.kw, g.out_width});
  TORCH_CHECK(fit && p.form == Form::kFeatures,
              "expected gates of the features of ", p.x.sizes(), ", got ",
              p.first.sizes(), " and ", p.second.sizes());
  if (!backward) return;
  p.grad_first = at::zeros_like(p.first);
  p.grad_second =
      p.by_channel() ? at::zeros({at::get_num_threads(), n, k, g.out_height,
                                  g.out_width},
                                 p.second.options())
                     : at::zeros_like(p.second);
}

int64_t pixel_bytes(const Tensor& x, const Geometry& g) {
  return x.size(1) * g.taps() * x.element_size();
}

Form form_of(const OptionalTensor& gain, bool unfold) {
  TORCH_CHECK(!(unfold && gain.has_value()),
              "expected no gain for the unfold form, got one");
  if (unfold) return Form::kUnfold;
  return gain.has_value() ? Form::kAttention : Form::kFeatures;
}

// Memory for the features of the largest group, taken once: fresh pages are
// slow.
Tensor memory_for(const std::vector<Group>& work, int64_t rows,
                  const Tensor& x) {
  int64_t most = 0;
  for (const Group& group : work) most = std::max(most, group.pixels);
  return at::empty({rows * most}, x.options());
}

Tensor part_of(const Tensor& memory, at::IntArrayRef sizes) {
  return memory.narrow(0, 0, c10::multiply_integers(sizes)).view(sizes);
}

Tensor rf_conv(const Tensor& x, const OptionalTensor& gain,
               const Tensor& feature_weight, const Tensor& feature_shift,
               const Tensor& weight, const OptionalTensor& bias,
               const OptionalTensor& first, const OptionalTensor& second,
               at::IntArrayRef stride, at::IntArrayRef padding,
               at::IntArrayRef dilation, int64_t groups, bool unfold) {
  const Geometry g =
      geometry_of(x, weight.sizes().slice(2), stride, padding, dilation);
  Parameters p = parameters(x, gain, feature_weight, feature_shift, g,
                            form_of(gain, unfold), false);
  add_gates(p, first, second, false);
  const Tensor matrices =
      weight.to(x.scalar_type()).reshape({groups, weight.size(0) / groups, -1});
  const int64_t channels = matrices.size(1);
  Tensor out = at::empty(
      {x.size(0), weight.size(0), g.out_height, g.out_width}, x.options());
  const int64_t threads = at::get_num_threads();
  const int64_t bytes = pixel_bytes(x, g);
  std::vector<Group> work = groups_of(x.size(0), g, bytes, kOwnBytes, threads);
  const bool shared = static_cast<int64_t>(work.size()) < threads ||
                      work.front().pixels < kFewestPixels;
  if (shared) work = groups_of(x.size(0), g, bytes, kSharedBytes, 1);
  auto run = [&](int64_t begin, int64_t end) {
    // Autograd keeps its state per thread, and has no part in this.
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor memory = memory_for(work, groups * matrices.size(2), x);
    for (int64_t index = begin; index < end; ++index) {
      const Group& group = work[index];
      const Tensor y =
          part_of(memory, {groups, matrices.size(2), group.pixels});
      features_of_group(p, group, y, false);
      for (int64_t i = 0; i < groups; ++i) {
        Tensor target = out.narrow(1, i * channels, channels)
                            .narrow(0, group.image, group.images)
                            .narrow(2, group.row, group.rows);
        if (group.images == 1) {
          Tensor flat = target[0].flatten(1);
          at::mm_out(flat, matrices[i], y[i]);
        } else {
          target.copy_(
              at::mm(matrices[i], y[i])
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
  if (bias.has_value())
    out.add_(bias->to(x.scalar_type()).view({1, -1, 1, 1}));
  return out.contiguous(x.suggest_memory_format());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
rf_conv_backward(
    const Tensor& grad_out, const Tensor& x, const OptionalTensor& gain,
    const Tensor& feature_weight, const Tensor& feature_shift,
    const Tensor& weight, const OptionalTensor& first,
    const OptionalTensor& second, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
    bool unfold) {
  const Geometry g =
      geometry_of(x, weight.sizes().slice(2), stride, padding, dilation);
  Parameters p = parameters(x, gain, feature_weight, feature_shift, g,
                            form_of(gain, unfold), true);
  add_gates(p, first, second, true);
  const Tensor matrices =
      weight.to(x.scalar_type()).reshape({groups, weight.size(0) / groups, -1});
  const int64_t channels = matrices.size(1);
  Tensor grad_weight = at::zeros(matrices.sizes(), feature_weight.options());
  const Tensor grad = grad_out.to(x.scalar_type()).contiguous();
  const std::vector<Group> work =
      groups_of(x.size(0), g, pixel_bytes(x, g), kSharedBytes, 1);
  const Tensor memory = memory_for(work, groups * matrices.size(2), x);
  for (const Group& group : work) {
    // First the gradient of the features, then the features in its place.
    const Tensor y = part_of(memory, {groups, matrices.size(2), group.pixels});
    const Tensor grads = pixels_of(grad, group);
    for (int64_t i = 0; i < groups; ++i) {
      Tensor target = y[i];
      at::mm_out(target, matrices[i].t(),
                 grads.narrow(0, i * channels, channels));
    }
    features_of_group(p, group, y, true);
    for (int64_t i = 0; i < groups; ++i) {
      Tensor target = grad_weight[i];
      const Tensor part = grads.narrow(0, i * channels, channels);
      if (x.scalar_type() == at::kFloat)
        target.addmm_(part, y[i].t());
      else
        target.add_(at::mm(part, y[i].t()));
    }
  }
  return {p.grad_x.to(x.scalar_type()),
          gain.has_value() ? p.grad_gain : at::empty({0}, x.options()),
          p.grad_weight, p.grad_shift,
          grad_weight.view(weight.sizes()).to(weight.scalar_type()),
          first.has_value() ? p.grad_first : at::empty({0}, x.options()),
          !first.has_value()  ? at::empty({0}, x.options())
          : p.by_channel()    ? p.grad_second.sum(0)
                              : p.grad_second};
}

// Features of one image of one channel, or their gradient.
template <typename T>
Features<T> one_image(const Parameters& p, int64_t n, int64_t c) {
  const int64_t taps = p.geometry.taps();
  const Group image{n, 1, 0, p.geometry.out_height, 0};
  Features<T> f{};
  f.channel = channel_of<T>(p.x, p.grad_x, p.geometry, image, c);
  f.form = Form::kFeatures;
  f.weight = at_offset(p.weight, c * taps * taps);
  f.shift = at_offset(p.shift, c * taps);
  f.grad_weight = at_offset(p.grad_weight, c * taps * taps);
  f.grad_shift = at_offset(p.grad_shift, c * taps);
  f.pitch = p.geometry.out_height * p.geometry.out_width;
  return f;
}

// Features of one channel after another, seen once: maximum, sum and argument
// of the maximum over the channels, or with `backward` the gradient of x and
// of the parameters from those of the first two.
template <typename T>
void run_channel_pool(const Parameters& p, const Tensor& maximum,
                      const Tensor& sum, const Tensor& argument,
                      bool backward) {
  const Geometry& g = p.geometry;
  const int64_t channels = p.x.size(1), taps = g.taps();
  const int64_t pixels = g.out_height * g.out_width;
  const bool wide = has_avx512();
  auto pool = [&](T* y, int64_t n, int64_t c, int64_t row, int64_t rows) {
    Pool<T> f{};
    f.geometry = g;
    f.pixels = f.pitch = rows * g.out_width;
    f.y = y;
    f.backward = backward;
    f.channel = c;
    f.pool_pitch = pixels;
    const int64_t at = n * taps * pixels + row * g.out_width;
    f.maximum = at_offset(maximum, at);
    f.sum = at_offset(sum, at);
    f.argument = argument.data_ptr<int32_t>() + at;
    wide ? avx512::pool(f) : avx2::pool(f);
  };
  if (backward) {
    at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> memory(taps * pixels);
      for (int64_t c = begin; c < end; ++c)
        for (int64_t n = 0; n < p.x.size(0); ++n) {
          pool(memory.data(), n, c, 0, g.out_height);
          Features<T> f = one_image<T>(p, n, c);
          f.grad_y = memory.data();
          wide ? avx512::features(f) : avx2::features(f);
        }
    });
    return;
  }
  // Every thread has positions of its own, and goes through all channels.
  const int64_t rows = divide_up(
      g.out_height,
      std::max(divide_up(at::get_num_threads(), p.x.size(0)),
               divide_up(pixels, 512)));
  const int64_t parts = divide_up(g.out_height, rows);
  at::parallel_for(
      0, p.x.size(0) * parts, 1, [&](int64_t begin, int64_t end) {
        std::vector<T> memory(taps * rows * g.out_width);
        for (int64_t part = begin; part < end; ++part)
          for (int64_t c = 0; c < channels; ++c) {
            const int64_t n = part / parts, row = part % parts * rows;
            const int64_t count = std::min(rows, g.out_height - row);
            Features<T> f = one_image<T>(p, n, c);
            f.channel.first = row;
            f.channel.rows = count;
            f.y = memory.data();
            f.pitch = count * g.out_width;
            wide ? avx512::features(f) : avx2::features(f);
            pool(memory.data(), n, c, row, count);
          }
      });
}

// The same for sums over the lines of the spread receptive field.
template <typename T>
void run_line_pool(const Parameters& p, const Tensor& lines,
                   const Tensor& columns, bool backward) {
  const Geometry& g = p.geometry;
  const int64_t channels = p.x.size(1), taps = g.taps();
  const int64_t pixels = g.out_height * g.out_width;
  const bool wide = has_avx512();
  at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> memory(taps * pixels);
    for (int64_t c = begin; c < end; ++c)
      for (int64_t n = 0; n < p.x.size(0); ++n) {
        Features<T> f = one_image<T>(p, n, c);
        Pool<T> q{};
        q.geometry = g;
        q.pixels = q.pitch = pixels;
        q.y = memory.data();
        q.backward = backward;
        q.lines = at_offset(lines, (n * channels + c) * g.kh * g.out_height);
        q.columns =
            at_offset(columns, (n * channels + c) * g.kw * g.out_width);
        if (backward) {
          wide ? avx512::pool(q) : avx2::pool(q);
          f.grad_y = memory.data();
        } else {
          f.y = memory.data();
        }
        wide ? avx512::features(f) : avx2::features(f);
        if (!backward) wide ? avx512::pool(q) : avx2::pool(q);
      }
  });
}

std::tuple<Tensor, Tensor, Tensor> rf_channel_pool(
    const Tensor& x, const Tensor& weight, const Tensor& shift,
    at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation) {
  const Geometry g = geometry_of(x, kernel, stride, padding, dilation);
  const Parameters p =
      parameters(x, {}, weight, shift, g, Form::kFeatures, false);
  const auto sizes = {x.size(0), g.taps(), g.out_height, g.out_width};
  const Tensor maximum = at::full(sizes, -1, p.shift.options());
  const Tensor sum = at::zeros(sizes, p.shift.options());
  const Tensor argument = at::zeros(sizes, p.shift.options().dtype(at::kInt));
  x.scalar_type() == at::kFloat
      ? run_channel_pool<float>(p, maximum, sum, argument, false)
      : run_channel_pool<uint16_t>(p, maximum, sum, argument, false);
  return {maximum, sum.div_(x.size(1)), argument};
}

std::tuple<Tensor, Tensor, Tensor> rf_channel_pool_backward(
    const Tensor& grad_maximum, const Tensor& grad_mean,
    const Tensor& argument, const Tensor& x, const Tensor& weight,
    const Tensor& shift, at::IntArrayRef kernel, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  const Geometry g = geometry_of(x, kernel, stride, padding, dilation);
  const Parameters p =
      parameters(x, {}, weight, shift, g, Form::kFeatures, true);
  const Tensor maximum = grad_maximum.contiguous();
  const Tensor sum = (grad_mean / x.size(1)).contiguous();
  x.scalar_type() == at::kFloat
      ? run_channel_pool<float>(p, maximum, sum, argument, true)
      : run_channel_pool<uint16_t>(p, maximum, sum, argument, true);
  return {p.grad_x.to(x.scalar_type()), p.grad_weight, p.grad_shift};
}

std::tuple<Tensor, Tensor> rf_line_pool(
    const Tensor& x, const Tensor& weight, const Tensor& shift,
    at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation) {
  const Geometry g = geometry_of(x, kernel, stride, padding, dilation);
  const Parameters p =
      parameters(x, {}, weight, shift, g, Form::kFeatures, false);
  const Tensor lines = at::zeros({x.size(0), x.size(1), g.kh, g.out_height},
                                 p.shift.options());
  const Tensor columns = at::zeros({x.size(0), x.size(1), g.kw, g.out_width},
                                   p.shift.options());
  x.scalar_type() == at::kFloat
      ? run_line_pool<float>(p, lines, columns, false)
      : run_line_pool<uint16_t>(p, lines, columns, false);
  return {lines.div_(g.kw * g.out_width), columns.div_(g.kh * g.out_height)};
}

std::tuple<Tensor, Tensor, Tensor> rf_line_pool_backward(
    const Tensor& grad_lines, const Tensor& grad_columns, const Tensor& x,
    const Tensor& weight, const Tensor& shift, at::IntArrayRef kernel,
    at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation) {
  const Geometry g = geometry_of(x, kernel, stride, padding, dilation);
  const Parameters p =
      parameters(x, {}, weight, shift, g, Form::kFeatures, true);
  const Tensor lines = (grad_lines / (g.kw * g.out_width)).contiguous();
  const Tensor columns = (grad_columns / (g.kh * g.out_height)).contiguous();
  x.scalar_type() == at::kFloat
      ? run_line_pool<float>(p, lines, columns, true)
      : run_line_pool<uint16_t>(p, lines, columns, true);
  return {p.grad_x.to(x.scalar_type()), p.grad_weight, p.grad_shift};
}

template <typename T>
void run_moments(const Tensor& x, const Geometry& g, const Tensor& mean,
                 const Tensor& covariance, const Tensor& slope,
                 const Tensor& offset, const Tensor& grad_x) {
  const int64_t channels = x.size(1), taps = g.taps();
  const Group all{0, x.size(0), 0, g.out_height, 0};
  const bool wide = has_avx512();
  at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      Moments<T> m{};
      m.channel = channel_of<T>(x, grad_x, g, all, c);
      if (grad_x.defined()) {
        m.slope = at_offset(slope, c * taps * taps);
        m.offset = at_offset(offset, c * taps);
        wide ? avx512::moments_backward(m) : avx2::moments_backward(m);
      } else {
        m.mean = mean.data_ptr<double>() + c * taps;
        m.covariance = covariance.data_ptr<double>() + c * taps * taps;
        wide ? avx512::moments(m) : avx2::moments(m);
      }
    }
  });
}

std::tuple<Tensor, Tensor> rf_moments(const Tensor& x, at::IntArrayRef kernel,
                                      at::IntArrayRef stride,
                                      at::IntArrayRef padding,
                                      at::IntArrayRef dilation) {
  const Geometry g = geometry_of(x, kernel, stride, padding, dilation);
  const auto options = x.options().dtype(at::kDouble);
  const Tensor mean = at::empty({x.size(1), g.taps()}, options);
  const Tensor covariance =
      at::empty({x.size(1), g.taps(), g.taps()}, options);
  const Tensor input = x.contiguous();
  input.scalar_type() == at::kFloat
      ? run_moments<float>(input, g, mean, covariance, {}, {}, {})
      : run_moments<uint16_t>(input, g, mean, covariance, {}, {}, {});
  return {mean, covariance};
}

Tensor rf_moments_backward(const Tensor& grad_mean,
                           const Tensor& grad_covariance, const Tensor& x,
                           const Tensor& mean, at::IntArrayRef kernel,
                           at::IntArrayRef stride, at::IntArrayRef padding,
                           at::IntArrayRef dilation) {
  const Geometry g = geometry_of(x, kernel, stride, padding, dilation);
  const double count =
      static_cast<double>(x.size(0)) * g.out_height * g.out_width;
  // d/du of the covariance: its gradient, symmetrised, times (u - mean).
  const Tensor slope =
      (grad_covariance + grad_covariance.transpose(1, 2)) / count;
  const Tensor offset =
      grad_mean / count - at::matmul(slope, mean.unsqueeze(2)).squeeze(2);
  const Tensor slopes = slope.to(at::kFloat).contiguous();
  const Tensor offsets = offset.to(at::kFloat).contiguous();
  const Tensor input = x.contiguous();
  const Tensor grad_x = at::zeros(x.sizes(), slopes.options());
  input.scalar_type() == at::kFloat
      ? run_moments<float>(input, g, {}, {}, slopes, offsets, grad_x)
      : run_moments<uint16_t>(input, g, {}, {}, slopes, offsets, grad_x);
  return grad_x.to(x.scalar_type());
}

}  // namespace

TORCH_LIBRARY(mmrfa, m) {
  m.def("instruction_set() -> str", instruction_set);
  m.def("sources_digest() -> str", sources_digest);
  m.def("uses_threads() -> bool", uses_threads);
  m.def(
      "rf_conv(Tensor x, Tensor? gain, Tensor feature_weight, "
      "Tensor feature_shift, Tensor weight, Tensor? bias, Tensor? first, "
      "Tensor? second, int[] stride, int[] padding, int[] dilation, "
      "int groups, bool unfold) -> Tensor");
  m.def(
      "rf_conv_backward(Tensor grad, Tensor x, Tensor? gain, "
      "Tensor feature_weight, Tensor feature_shift, Tensor weight, "
      "Tensor? first, Tensor? second, int[] stride, int[] padding, "
      "int[] dilation, int groups, bool unfold) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  const std::string features =
      "Tensor x, Tensor weight, Tensor shift, int[] kernel, int[] stride, "
      "int[] padding, int[] dilation) -> ";
  auto define = [&](const std::string& name, const std::string& result) {
    m.def((name + features + result).c_str());
  };
  define("rf_channel_pool(", "(Tensor, Tensor, Tensor)");
  define("rf_channel_pool_backward(Tensor maximum, Tensor mean, "
         "Tensor argument, ", "(Tensor, Tensor, Tensor)");
  define("rf_line_pool(", "(Tensor, Tensor)");
  define("rf_line_pool_backward(Tensor lines, Tensor columns, ",
         "(Tensor, Tensor, Tensor)");
  m.def(
      "rf_moments(Tensor x, int[] kernel, int[] stride, int[] padding, "
      "int[] dilation) -> (Tensor, Tensor)");
  m.def(
      "rf_moments_backward(Tensor grad_mean, Tensor grad_covariance, "
      "Tensor x, Tensor mean, int[] kernel, int[] stride, int[] padding, "
      "int[] dilation) -> Tensor");
}

TORCH_LIBRARY_IMPL(mmrfa, CPU, m) {
  m.impl("rf_conv", rf_conv);
  m.impl("rf_conv_backward", rf_conv_backward);
  m.impl("rf_channel_pool", rf_channel_pool);
  m.impl("rf_channel_pool_backward", rf_channel_pool_backward);
  m.impl("rf_line_pool", rf_line_pool);
  m.impl("rf_line_pool_backward", rf_line_pool_backward);
  m.impl("rf_moments", rf_moments);
  m.impl("rf_moments_backward", rf_moments_backward);
}

}  // namespace mmrfa
