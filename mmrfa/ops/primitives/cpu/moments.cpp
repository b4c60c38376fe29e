// Mean and covariance of the receptive field, and their gradient.

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "operators.h"
#include "tensors.h"

namespace mmrfa {
namespace {

// Which of `length` rows (or columns) some window samples. What lies in the
// others, be it NaN, has no part in anything.
struct Seen {
  std::vector<int32_t> mask;  // -1 or 0; vectors are read past the end
  bool all;

  Seen(int64_t length, int64_t windows, int64_t kernel, int64_t stride,
       int64_t padding, int64_t dilation)
      : mask(length + 16), all(true) {
    for (int64_t i = 0; i < length; ++i) {
      for (int64_t tap = 0; tap < kernel && mask[i] == 0; ++tap) {
        const int64_t at = i + padding - tap * dilation;
        if (at >= 0 && at % stride == 0 && at / stride < windows) mask[i] = -1;
      }
      all = all && mask[i] != 0;
    }
  }
};

Group whole(const Tensor& x, const Geometry& g) {
  return {0, x.size(0), 0, g.out_height};
}

}  // namespace

std::tuple<Tensor, Tensor> rf_moments(const Tensor& x, IntArrayRef kernel,
                                      IntArrayRef stride, IntArrayRef padding,
                                      IntArrayRef dilation) {
  const Geometry g = checked_geometry(x, kernel, stride, padding, dilation);
  const int64_t channels = x.size(1), taps = g.taps();
  const auto options = x.options().dtype(at::kDouble);
  const Tensor mean = at::zeros({channels, taps}, options);
  const Tensor covariance = at::zeros({channels, taps, taps}, options);
  if (x.size(0) == 0) return {mean, covariance};
  const Tensor input = x.contiguous();
  const Seen rows(g.height, g.out_height, g.kh, g.sh, g.ph, g.dh);
  const Seen columns(g.width, g.out_width, g.kw, g.sw, g.pw, g.dw);
  const bool all = rows.all && columns.all;
  by_type(input, [&](auto element) {
    using T = decltype(element);
    at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        Moments<T> m{};
        m.channel = channel_of<T>(input, {}, g, whole(x, g), c);
        if (!all) {
          m.row_seen = rows.mask.data();
          m.column_seen = columns.mask.data();
        }
        m.mean = mean.data_ptr<double>() + c * taps;
        m.covariance = covariance.data_ptr<double>() + c * taps * taps;
        moments(m);
      }
    });
  });
  return {mean, covariance};
}

Tensor rf_moments_backward(const Tensor& mean, const Tensor& covariance,
                           const Tensor& x, const Tensor& batch_mean,
                           IntArrayRef kernel, IntArrayRef stride,
                           IntArrayRef padding, IntArrayRef dilation) {
  const Geometry g = checked_geometry(x, kernel, stride, padding, dilation);
  const int64_t channels = x.size(1), taps = g.taps();
  const Types wide = {at::kDouble};
  const Tensor of_mean =
      checked("the gradient of the mean", mean, {channels, taps}, wide);
  const Tensor of_covariance =
      checked("the gradient of the covariance", covariance,
              {channels, taps, taps}, wide);
  const Tensor centre =
      checked("the mean of the batch", batch_mean, {channels, taps}, wide);
  const auto options = x.options().dtype(at::kFloat);
  const Tensor grad_x = g.has_lags() ? at::empty(x.sizes(), options)
                                     : at::zeros(x.sizes(), options);
  if (x.size(0) == 0) return as_input(grad_x, x);
  const double count = static_cast<double>(x.size(0)) * g.pixels();
  // d/du of the covariance: its gradient, symmetrised, times (u - mean).
  const Tensor slope =
      (of_covariance + of_covariance.transpose(1, 2)) / count;
  const Tensor offset =
      of_mean / count - at::matmul(slope, centre.unsqueeze(2)).squeeze(2);
  const Tensor slopes = slope.to(at::kFloat).contiguous();
  const Tensor offsets = offset.to(at::kFloat).contiguous();
  const Tensor input = x.contiguous();
  by_type(input, [&](auto element) {
    using T = decltype(element);
    at::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        Moments<T> m{};
        m.channel = channel_of<T>(input, grad_x, g, whole(x, g), c);
        m.slope = at_offset(slopes, c * taps * taps);
        m.offset = at_offset(offsets, c * taps);
        moments_backward(m);
      }
    });
  });
  return as_input(grad_x, x);
}

}  // namespace mmrfa
