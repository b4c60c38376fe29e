// Kernels of the receptive-field operators: the interface between the binding
// (which knows torch) and the code compiled once per instruction set.
#pragma once

#include <cstdint>

namespace mmrfa {

// Convolution geometry, in pixels; tap (i, j) has index i * kw + j.
struct Geometry {
  int64_t height, width;          // input image
  int64_t out_height, out_width;  // output image
  int64_t kh, kw, sh, sw, ph, pw, dh, dw;
  int64_t taps() const { return kh * kw; }
};

// One channel of `images` images, output rows [first, first + rows) of each.
// T is float or uint16_t (the bits of a bfloat16). Steps count elements from
// one image to the next.
template <typename T>
struct Channel {
  Geometry geometry;
  int64_t images, first, rows, step;
  const T* x;     // (H, W), plane of the channel in the first image
  float* grad_x;  // as x, added to
};

// What becomes of the K linear functions of the taps, f = weight @ taps + shift.
enum class Form {
  kFeatures,   // y = ReLU(f)
  kAttention,  // y = softmax(gain * mean of the taps) * ReLU(f)
  kUnfold,     // y = softmax(f) * taps
};

template <typename T>
struct Features {
  Channel<T> channel;
  Form form;
  const float* weight;  // (K, K)
  const float* shift;   // (K)
  const float* gain;    // (K), of kAttention
  T* y;                 // K rows
  const T* grad_y;      // null: forward only; y may be the same memory, or null
  int64_t pitch, step;  // of y and grad_y: from row to row, image to image
  float* grad_weight;   // (K, K), added to, as all that follow
  float* grad_shift;    // (K)
  float* grad_gain;     // (K)
};

// Moments of the receptive field over every output position, and what their
// gradients put on the input.
template <typename T>
struct Moments {
  Channel<T> channel;
  double* mean;         // (K)
  double* covariance;   // (K, K), biased
  const float* slope;   // (K, K) and
  const float* offset;  // (K): gradient = slope @ taps + offset
};

#define MMRFA_DECLARE(ISA)                                 \
  namespace ISA {                                          \
  void features(const Features<float>& features);          \
  void features(const Features<uint16_t>& features);       \
  void moments(const Moments<float>& moments);             \
  void moments(const Moments<uint16_t>& moments);          \
  void moments_backward(const Moments<float>& moments);    \
  void moments_backward(const Moments<uint16_t>& moments); \
  }
MMRFA_DECLARE(avx2)
MMRFA_DECLARE(avx512)
#undef MMRFA_DECLARE

}  // namespace mmrfa
