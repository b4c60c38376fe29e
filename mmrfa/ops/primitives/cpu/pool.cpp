// Features reduced while they are made: over the channels, and over the lines
// of the spread receptive field.

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "operators.h"
#include "tensors.h"

namespace mmrfa {
namespace {

// Channels that share a pass over what they are reduced to.
constexpr int64_t kTogether = 4;

// Of some channels after others: maximum, sum and argument of the maximum, or
// with `backward` the gradients from those of the first two.
template <typename T>
void run_channel_pool(const Learned& p, const Tensor& maximum,
                      const Tensor& sum, const Tensor& argument,
                      bool backward) {
  const Geometry& g = p.geometry;
  const int64_t images = p.x.size(0), channels = p.x.size(1);
  const int64_t taps = g.taps(), pixels = g.pixels();
  auto pool = [&](const Group& group, int64_t c, int64_t count, float* y) {
    const int64_t at =
        group.image * taps * pixels + group.row * g.out_width;
    ChannelPool f{};
    f.taps = taps;
    f.pixels = f.pitch = group.rows * g.out_width;
    f.y = y;
    f.backward = backward;
    f.channel = c;
    f.channels = count;
    f.pool_pitch = pixels;
    f.maximum = at_offset(maximum, at);
    f.sum = at_offset(sum, at);
    f.argument = argument.data_ptr<int32_t>() + at;
    pool_channels(f);
  };
  if (backward) {
    at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> memory(taps * pixels);
      for (int64_t c = begin; c < end; ++c)
        for (int64_t n = 0; n < images; ++n) {
          const Group image{n, 1, 0, g.out_height};
          pool(image, c, 1, memory.data());
          Features<T> f = features_of<T>(p, image, c);
          f.grad_y = memory.data();
          features(f);
        }
    });
    return;
  }
  // Every thread has positions of its own, and goes through all channels.
  const int64_t rows = divide_up(
      g.out_height, std::max(divide_up(at::get_num_threads(), images),
                             divide_up(pixels, 256)));
  const int64_t parts = divide_up(g.out_height, rows);
  at::parallel_for(0, images * parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> memory(kTogether * taps * rows * g.out_width);
    for (int64_t part = begin; part < end; ++part) {
      const int64_t row = part % parts * rows;
      const Group group{part / parts, 1, row,
                        std::min(rows, g.out_height - row)};
      const int64_t size = taps * group.rows * g.out_width;
      for (int64_t c = 0; c < channels; c += kTogether) {
        const int64_t count = std::min(kTogether, channels - c);
        for (int64_t i = 0; i < count; ++i) {
          Features<T> f = features_of<T>(p, group, c + i);
          f.y = memory.data() + i * size;
          features(f);
        }
        pool(group, c, count, memory.data());
      }
    }
  });
}

// Sums over the lines, or with `backward` the gradients from theirs.
template <typename T>
void run_line_pool(const Learned& p, const Tensor& lines,
                   const Tensor& columns, bool backward) {
  const Geometry& g = p.geometry;
  const int64_t channels = p.x.size(1);
  at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> memory(g.taps() * g.pixels() + kSlack);
    for (int64_t c = begin; c < end; ++c)
      for (int64_t n = 0; n < p.x.size(0); ++n) {
        const int64_t plane = n * channels + c;
        Features<T> f = features_of<T>(p, {n, 1, 0, g.out_height}, c);
        LinePool q{};
        q.geometry = g;
        q.y = memory.data();
        q.backward = backward;
        q.lines = at_offset(lines, plane * g.kh * g.out_height);
        q.columns = at_offset(columns, plane * g.kw * g.out_width);
        if (backward) {
          pool_lines(q);
          f.grad_y = memory.data();
          features(f);
        } else {
          f.y = memory.data();
          features(f);
          pool_lines(q);
        }
      }
  });
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> rf_channel_pool(
    const Tensor& x, const Tensor& weight, const Tensor& shift,
    IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation) {
  const Geometry g = checked_geometry(x, kernel, stride, padding, dilation);
  const Learned p(x, weight, shift, g);
  const auto sizes = {x.size(0), g.taps(), g.out_height, g.out_width};
  const auto options = p.shift.options();
  const Tensor maximum = at::full(sizes, -1, options);
  const Tensor sum = at::zeros(sizes, options);
  const Tensor argument = at::zeros(sizes, options.dtype(at::kInt));
  if (x.size(0) > 0)
    by_type(x, [&](auto element) {
      run_channel_pool<decltype(element)>(p, maximum, sum, argument, false);
    });
  return {maximum, sum.div_(x.size(1)), argument};
}

std::tuple<Tensor, Tensor, Tensor> rf_channel_pool_backward(
    const Tensor& maximum, const Tensor& mean, const Tensor& argument,
    const Tensor& x, const Tensor& weight, const Tensor& shift,
    IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation) {
  const Geometry g = checked_geometry(x, kernel, stride, padding, dilation);
  Learned p(x, weight, shift, g);
  p.want_gradients();
  const std::vector<int64_t> sizes = {x.size(0), g.taps(), g.out_height,
                                      g.out_width};
  const Tensor of_maximum =
      checked("the gradient of the maximum", maximum, sizes);
  const Tensor of_sum =
      checked("the gradient of the mean", mean, sizes) / x.size(1);
  const Tensor found =
      checked("where the maximum is", argument, sizes, {at::kInt});
  by_type(x, [&](auto element) {
    run_channel_pool<decltype(element)>(p, of_maximum, of_sum, found, true);
  });
  return {as_input(p.grad_x, x), p.grad_weight.to(weight.scalar_type()),
          p.grad_shift.to(shift.scalar_type())};
}

std::tuple<Tensor, Tensor> rf_line_pool(const Tensor& x, const Tensor& weight,
                                        const Tensor& shift,
                                        IntArrayRef kernel, IntArrayRef stride,
                                        IntArrayRef padding,
                                        IntArrayRef dilation) {
  const Geometry g = checked_geometry(x, kernel, stride, padding, dilation);
  const Learned p(x, weight, shift, g);
  const auto options = p.shift.options();
  const Tensor lines =
      at::zeros({x.size(0), x.size(1), g.kh, g.out_height}, options);
  const Tensor columns =
      at::zeros({x.size(0), x.size(1), g.kw, g.out_width}, options);
  by_type(x, [&](auto element) {
    run_line_pool<decltype(element)>(p, lines, columns, false);
  });
  return {lines.div_(g.kw * g.out_width), columns.div_(g.kh * g.out_height)};
}

std::tuple<Tensor, Tensor, Tensor> rf_line_pool_backward(
    const Tensor& lines, const Tensor& columns, const Tensor& x,
    const Tensor& weight, const Tensor& shift, IntArrayRef kernel,
    IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation) {
  const Geometry g = checked_geometry(x, kernel, stride, padding, dilation);
  Learned p(x, weight, shift, g);
  p.want_gradients();
  const int64_t n = x.size(0), c = x.size(1);
  const Tensor of_lines = checked("the gradient of the lines", lines,
                                  {n, c, g.kh, g.out_height}) /
                          (g.kw * g.out_width);
  const Tensor of_columns = checked("the gradient of the columns", columns,
                                    {n, c, g.kw, g.out_width}) /
                            (g.kh * g.out_height);
  by_type(x, [&](auto element) {
    run_line_pool<decltype(element)>(p, of_lines, of_columns, true);
  });
  return {as_input(p.grad_x, x), p.grad_weight.to(weight.scalar_type()),
          p.grad_shift.to(shift.scalar_type())};
}

}  // namespace mmrfa
