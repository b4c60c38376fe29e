// The interface between what knows torch and the code that is compiled once
// per instruction set.
#pragma once

#include <cstdint>

namespace mmrfa {

constexpr int64_t kMostTaps = 121;  // the buffers of some kernels end there
constexpr int64_t kSlack = 16;      // a vector
// Vectors of pixels that share a load of every weight.
constexpr int64_t kVectors = 3;

bool has_avx512();
inline int64_t lanes() { return has_avx512() ? 16 : 8; }  // of a vector
inline int64_t panel_width() { return kVectors * lanes(); }

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

// Where K rows of features lie, float whatever T is. Column `image * step +
// pixel` of row t is at data[t * pitch + column]; or, if `panel` is not 0, in
// panels as a product takes them, `panel` from one to the next, step and pixel
// in whole vectors.
struct Layout {
  int64_t pitch, step, panel;
};

template <typename T>
struct Features {
  Channel<T> channel;
  Form form;
  const float* weight;  // (K, K)
  const float* shift;   // (K)
  const float* gain;    // (K), of kAttention
  float* y;             // K rows
  const float* grad_y;  // null: forward; y may be the same memory, or null
  Layout layout;        // of y and grad_y
  double* grad_weight;  // (K, K), added to, as all that follow
  double* grad_shift;   // (K)
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
struct Gates {
  Geometry geometry;
  int64_t first, rows;                // output rows
  const float *channel, *position;    // one number; K rows
  const float *row, *column;          // (kh, Ho) and (kw, Wo), if no channel
  int64_t position_pitch;
  float* y;       // K rows of features in, gated out
  float* grad_y;  // null: forward. The gradient of y in, of the features out
  int64_t image;  // of those that y has
  Layout layout;  // of y and grad_y, panels
  float *grad_channel, *grad_position, *grad_row, *grad_column;  // added to
};

// Features of some channels of one image, `pixels` of its positions, reduced
// over the channels.
struct ChannelPool {
  int64_t taps, pixels, pitch;  // pitch of y
  float* y;  // K rows a channel of features in, or of their gradient out
  bool backward;
  int64_t channel, channels;  // the first of them, and how many
  // K rows of the maximum, the sum and where the maximum is, or of the
  // gradients of the first two.
  int64_t pool_pitch;
  float *maximum, *sum;
  int32_t* argument;
};

// The same reduced over the lines and columns of the spread receptive field.
struct LinePool {
  Geometry geometry;
  float* y;  // K rows, without gaps, and kSlack more to read
  bool backward;
  // Sums (kh, Ho) and (kw, Wo), or what their gradients add to that of a
  // feature.
  float *lines, *columns;
};

// out = left @ right, or added to what is there. Columns lie in panels of
// panel_width(), in which row follows row.
struct Product {
  int64_t rows, depth;
  // Element (m, k): left[m * row_step + k / run * run_step + k % run * step].
  const float* left;
  int64_t row_step, step, run, run_step;
  const float* right;
  int64_t panel;  // from panel to panel of right
  // Vector v of row m: `size[v]` numbers at out[m * pitch + at[v]], or, turned,
  // `pitch` apart at out[at[v] * pitch + m].
  int64_t vectors;
  const int64_t *at, *size;
  float* out;
  int64_t pitch;
  bool turned;
  bool add;
  const float* start;  // (rows) or null: added where nothing is there
};

// Rows of pixels in panels: as the right of a product with their rows as its
// depth, and turned, of one with their columns as its depth.
struct Panels {
  int64_t rows, pitch;  // of `from`
  const float* from;
  int64_t vectors;      // of columns; as in Product
  const int64_t *at, *size;
  float *panels, *turned;
};

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
MMRFA_KERNEL_OF(gate, Gates)
MMRFA_KERNEL_OF(pool_channels, ChannelPool)
MMRFA_KERNEL_OF(pool_lines, LinePool)
MMRFA_KERNEL_OF(product, Product)
MMRFA_KERNEL_OF(to_panels, Panels)
MMRFA_KERNEL(moments, Moments)
MMRFA_KERNEL(moments_backward, Moments)
#undef MMRFA_KERNEL
#undef MMRFA_KERNEL_OF

}  // namespace mmrfa
