// Kernels of the receptive-field operators: the interface between the binding
// (which knows torch) and the code compiled once per instruction set.
#pragma once

#include <cstdint>

namespace mmrfa {

constexpr int64_t kMostTaps = 121;  // the buffers of some kernels end there

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
  const T* grad_y;      // null: forward; y may be the same memory, or null
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

// Sigmoid gates of K features of some rows of one channel of one image: by
// channel and position, or else by line of the kernel's spread receptive field.
template <typename T>
struct Gates {
  Geometry geometry;
  int64_t first, rows;             // output rows
  const float *channel, *spatial;  // one number; K rows
  const float *lines, *columns;    // (kh, Ho) and (kw, Wo), if no channel
  int64_t spatial_pitch;
  T* y;       // K rows of features in, gated out
  T* grad_y;  // null: forward. The gradient of y in, of the features out
  int64_t pitch;  // of y and grad_y
  float *grad_channel, *grad_spatial, *grad_lines, *grad_columns;  // added to
};

// Means and maxima of features for such gates, or, with grad_y, the gradient
// that comes from them. One channel of one image, `pixels` of its positions.
template <typename T>
struct Pool {
  Geometry geometry;
  int64_t pixels, pitch;  // pitch of y
  T* y;                   // K rows of features in, or of their gradient out
  bool backward;
  // Over channels: K rows of the maximum, the sum and where the maximum is, or
  // of the gradients of the first two.
  int64_t channel, pool_pitch;
  float *maximum, *sum;
  int32_t* argument;
  // Over lines, if there is no maximum: sums (kh, Ho) and (kw, Wo), or what
  // their gradients add to that of a feature.
  float *lines, *columns;
};

#define MMRFA_DECLARE(ISA)                                 \
  namespace ISA {                                          \
  void features(const Features<float>& features);          \
  void features(const Features<uint16_t>& features);       \
  void moments(const Moments<float>& moments);             \
  void moments(const Moments<uint16_t>& moments);          \
  void moments_backward(const Moments<float>& moments);    \
  void moments_backward(const Moments<uint16_t>& moments); \
  void gate(const Gates<float>& gates);                    \
  void gate(const Gates<uint16_t>& gates);                 \
  void pool(const Pool<float>& pool);                      \
  void pool(const Pool<uint16_t>& pool);                   \
  }
MMRFA_DECLARE(avx2)
MMRFA_DECLARE(avx512)
#undef MMRFA_DECLARE

}  // namespace mmrfa
