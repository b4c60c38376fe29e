// Where the kernels find what they work on, in tensors without gaps.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "checks.h"
#include "kernels.h"

namespace mmrfa {

template <typename T>
T* elements(const Tensor& t) {
  return t.defined() ? reinterpret_cast<T*>(t.data_ptr()) : nullptr;
}

template <typename T = float>
T* at_offset(const Tensor& t, int64_t offset) {
  return t.defined() ? t.data_ptr<T>() + offset : nullptr;
}

// Calls run with an element of the type in which x is stored.
template <typename F>
void by_type(const Tensor& x, F run) {
  x.scalar_type() == at::kFloat ? run(float{}) : run(uint16_t{});
}

inline Tensor as_input(const Tensor& grad, const Tensor& x) {
  return grad.to(x.scalar_type()).contiguous(format_of(x));
}

// Some images times some output rows, worked on at a time.
struct Group {
  int64_t image, images, row, rows;
};

// The features of x and, in a backward, where the gradients go. Those of the
// weight and the shift are summed in double, for whoever gave doubles: of a
// batch norm folded into both, little is left where one takes off the other.
struct Learned {
  Geometry geometry;
  Form form;
  Tensor x, gain, weight, shift;  // (N,C,H,W); (C,K) or undefined; (C,K,K)...
  Tensor grad_x, grad_gain, grad_weight, grad_shift;  // undefined: forward

  Learned(const Tensor& input, const Tensor& feature_weight,
          const Tensor& feature_shift, const Geometry& g)
      : geometry(g), form(Form::kFeatures) {
    const int64_t c = input.size(1), k = g.taps();
    x = input.contiguous();
    const Types either = {at::kFloat, at::kDouble};
    weight = checked("the weight of the features", feature_weight, {c, k, k},
                     either).to(at::kFloat);
    shift = checked("the shift of the features", feature_shift, {c, k}, either)
                .to(at::kFloat);
  }

  void want_gradients() {
    grad_x = at::zeros(x.sizes(), shift.options());
    const auto wide = weight.options().dtype(at::kDouble);
    grad_weight = at::zeros(weight.sizes(), wide);
    grad_shift = at::zeros(shift.sizes(), wide);
    if (gain.defined()) grad_gain = at::zeros_like(gain);
  }
};

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

// The features of that channel, in rows; y and grad_y are still to be said.
template <typename T>
Features<T> features_of(const Learned& p, const Group& group, int64_t c) {
  const int64_t taps = p.geometry.taps();
  Features<T> f{};
  f.channel = channel_of<T>(p.x, p.grad_x, p.geometry, group, c);
  f.form = p.form;
  f.weight = at_offset(p.weight, c * taps * taps);
  f.shift = at_offset(p.shift, c * taps);
  f.gain = at_offset(p.gain, c * taps);
  f.grad_weight = at_offset<double>(p.grad_weight, c * taps * taps);
  f.grad_shift = at_offset<double>(p.grad_shift, c * taps);
  f.grad_gain = at_offset(p.grad_gain, c * taps);
  const int64_t pixels = group.rows * p.geometry.out_width;
  f.layout = {group.images * pixels, pixels, 0};
  return f;
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

}  // namespace mmrfa
