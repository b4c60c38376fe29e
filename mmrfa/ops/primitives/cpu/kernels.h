// The interface between what knows torch and the code that is compiled once
// per instruction set.
#pragma once

#include <cstdint>

namespace mmrfa {

constexpr int64_t kMostTaps = 121;  // the buffers of some kernels end there
constexpr int64_t kSlack = 16;      // a vector

// Window of a convolution, in pixels; tap (i, j) has index i * kw + j.
struct Geometry {
  int64_t height, width;          // input image
  int64_t out_height, out_width;  // output image
  int64_t kh, kw, sh, sw, ph, pw, dh, dw;
  int64_t taps() const { return kh * kw; }
  int64_t pixels() const { return out_height * out_width; }
  // Moments go by lag, see lags.inl, where that is less work: most of the padded
  // image is seen by all taps, and all of it by some.
  bool has_lags() const {
    return kh == 3 && kw == 3 && sh == 1 && sw == 1 && 2 * dh <= out_height &&
           2 * dw <= out_width;
  }
};

// One channel of `images` images, output rows [first, first + rows) of each.
// T is float or uint16_t (the bits of a bfloat16). Steps count elements from
// one image to the next.
template <typename T>
struct Channel {
  Geometry geometry;
  int64_t images, first, rows, step;
  const T* x;     // (H, W), plane of the channel in the first image
  float* grad_x;  // as x; added to, but written where moments go by lag
};

// What becomes of K linear functions of the taps, f = weight @ taps + shift.
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
  // Pixels that some window samples: the rows and columns that are not zero
  // here; null where all of them are.
  const int32_t *row_seen, *column_seen;
  double* mean;         // (K)
  double* covariance;   // (K, K), biased
  const float* slope;   // (K, K) and
  const float* offset;  // (K): gradient = slope @ taps + offset
};

// Gates of K features of some rows of one channel of one image: by channel
// and position, or else by row and column of the spread receptive field.
template <typename T>
struct Gates {
  Geometry geometry;
  int64_t first, rows;                // output rows
  const float *channel, *position;    // one number; K rows
  const float *row, *column;          // (kh, Ho) and (kw, Wo), if no channel
  int64_t position_pitch;
  T* y;       // K rows of features in, gated out
  T* grad_y;  // null: forward. The gradient of y in, of the features out
  int64_t pitch;  // of y and grad_y
  float *grad_channel, *grad_position, *grad_row, *grad_column;  // added to
};

// Features of some channels of one image, `pixels` of its positions, reduced
// over the channels.
template <typename T>
struct ChannelPool {
  int64_t taps, pixels, pitch;  // pitch of y
  T* y;  // K rows a channel of features in, or of their gradient out
  bool backward;
  int64_t channel, channels;  // the first of them, and how many
  // K rows of the maximum, the sum and where the maximum is, or of the
  // gradients of the first two.
  int64_t pool_pitch;
  float *maximum, *sum;
  int32_t* argument;
};

// The same reduced over the lines and columns of the spread receptive field.
template <typename T>
struct LinePool {
  Geometry geometry;
  T* y;  // K rows, without gaps, and kSlack more to read
  bool backward;
  // Sums (kh, Ho) and (kw, Wo), or what their gradients add to that of a
  // feature.
  float *lines, *columns;
};

bool has_avx512();

// Declares a kernel of both instruction sets, and the choice between them.
#define MMRFA_KERNEL_OF(name, Argument)                          \
  namespace avx2 {                                               \
  void name(const Argument& argument);                           \
  }                                                              \
  namespace avx512 {                                             \
  void name(const Argument& argument);                           \
  }                                                              \
  inline void name(const Argument& argument) {                   \
    has_avx512() ? avx512::name(argument) : avx2::name(argument); \
  }
#define MMRFA_KERNEL(name, Argument)         \
  MMRFA_KERNEL_OF(name, Argument<float>)     \
  MMRFA_KERNEL_OF(name, Argument<uint16_t>)
MMRFA_KERNEL(features, Features)
MMRFA_KERNEL(gate, Gates)
MMRFA_KERNEL(pool_channels, ChannelPool)
MMRFA_KERNEL(pool_lines, LinePool)
MMRFA_KERNEL(moments, Moments)
MMRFA_KERNEL(moments_backward, Moments)
#undef MMRFA_KERNEL
#undef MMRFA_KERNEL_OF

}  // namespace mmrfa
