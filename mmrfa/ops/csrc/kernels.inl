// Receptive-field kernels, compiled once per instruction set (MMRFA_ISA).
//
// The rows of one channel that are needed are copied into a zero-padded
// plane, columns sorted by their remainder modulo the horizontal stride
// ("phases"). There each tap is a constant offset from the linear index
// q = row * pitch + column, so that 16 neighbouring q have each of their taps
// in one contiguous load, across row ends, for any stride and dilation. The
// few q past the end of a row are garbage: dropped, or multiplied by zero.
//
// No standard containers here: their code would be emitted with this file's
// instruction set and might be linked into the rest.

#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kChunk = 256;  // q at a time, so that K rows stay in cache
constexpr int64_t kRows = 32;    // most output rows a plane of moments covers

typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t IntVec
    __attribute__((vector_size(64), aligned(4), may_alias));
#define INLINE inline __attribute__((always_inline))

INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
INLINE Vec splat(float a) { return Vec{} + a; }
INLINE float sum(Vec v) {
  float total = 0;
  for (int64_t i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// exp(x) for x <= 0 as 2^n * exp(r), |r| <= log(2) / 2; Cephes' polynomial.
INLINE Vec exp_negative(Vec x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds
  const Vec shifted = x * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  return (Vec)((IntVec)p + ((IntVec)shifted << 23));
}

INLINE float number(float value) { return value; }
INLINE float number(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
INLINE void put(float* p, float value) { *p = value; }
INLINE void put(uint16_t* p, float value) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  bits += 0x7fff + ((bits >> 16) & 1);
  *p = nan ? 0x7fc0 : static_cast<uint16_t>(bits >> 16);
}

struct Buffer {
  float* data = nullptr;
  int64_t capacity = 0;

  float* zeros(int64_t size) {
    if (size > capacity) {
      std::free(data);
      data = static_cast<float*>(
          std::aligned_alloc(64, (size * sizeof(float) + 63) / 64 * 64));
      if (data == nullptr) std::abort();
      capacity = size;
    }
    std::memset(data, 0, size * sizeof(float));
    return data;
  }
  ~Buffer() { std::free(data); }
};

// The padded, phase-sorted copy of the input rows behind some output rows.
struct Plane {
  Geometry g;
  int64_t pitch, rows, top, count;
  Buffer buffer;
  float* data;

  void shape(const Geometry& geometry, int64_t first, int64_t out_rows) {
    g = geometry;
    pitch = g.out_width + ((g.kw - 1) * g.dw + g.sw - 1) / g.sw;
    rows = (out_rows - 1) * g.sh + (g.kh - 1) * g.dh + 1;
    top = first * g.sh - g.ph;
    count = out_rows;
    data = buffer.zeros(g.sw * rows * pitch + 2 * kLanes);
  }

  int64_t tap(int64_t t) const {
    const int64_t row = t / g.kw * g.dh, column = t % g.kw * g.dw;
    return (column % g.sw * rows + row) * pitch + column / g.sw;
  }

  // Runs of consecutive q: output rows joined where no plane row lies between.
  int64_t runs() const { return g.sh == 1 ? 1 : count; }
  int64_t run_begin(int64_t run) const { return run * g.sh * pitch; }
  int64_t run_length() const {
    return g.sh == 1 ? (count - 1) * pitch + g.out_width : g.out_width;
  }

  // Pieces of output rows inside [begin, begin + size) of a run:
  // each(pixel index in the strip, index from begin, length).
  template <typename F>
  INLINE void pieces(int64_t begin, int64_t size, F each) const {
    const int64_t stride = g.sh * pitch;
    for (int64_t row = begin / stride;
         row < count && row * stride < begin + size; ++row) {
      int64_t from = row * stride, to = from + g.out_width;
      from = from < begin ? begin : from;
      to = to > begin + size ? begin + size : to;
      if (from < to)
        each(row * g.out_width + from - row * stride, from - begin, to - from);
    }
  }

  // Pairs of plane and image elements: each(plane, image, step, length).
  template <typename F>
  INLINE void lines(F each) const {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = top + r;
      if (row < 0 || row >= g.height) continue;
      for (int64_t phase = 0; phase < g.sw; ++phase) {
        // Plane column c holds image column c * sw + phase - pw.
        const int64_t shift = g.pw - phase;
        int64_t from = shift > 0 ? (shift + g.sw - 1) / g.sw : 0;
        int64_t to = (g.width - 1 + shift) / g.sw + 1;
        if (g.width - 1 + shift < 0) to = 0;
        to = to > pitch ? pitch : to;
        if (from < to)
          each((phase * rows + r) * pitch + from,
               row * g.width + from * g.sw - shift, to - from);
      }
    }
  }

  template <typename T>
  INLINE void fill(const T* x) {
    lines([&](int64_t here, int64_t there, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        data[here + i] = number(x[there + i * g.sw]);
    });
  }
  INLINE void add_to(float* x) const {
    lines([&](int64_t here, int64_t there, int64_t n) {
      for (int64_t i = 0; i < n; ++i) x[there + i * g.sw] += data[here + i];
    });
  }
};

// K at compile time for the usual kernels, else at run time (TAPS = 0).
constexpr int64_t kMostTaps = 121;
template <int64_t TAPS>
constexpr int64_t most() { return TAPS ? TAPS : kMostTaps; }

// products[t * k + j] += sum over q of a[t][q] * b[j][q].
template <typename Sum>
INLINE void add_products(int64_t k, int64_t size, const float* a,
                         const float* b, const int64_t* b_offset,
                         Sum* products) {
  constexpr int64_t kTile = 9;
  for (int64_t t = 0; t < k; ++t)
    for (int64_t j0 = 0; j0 < k; j0 += kTile) {
      const int64_t n = k - j0 < kTile ? k - j0 : kTile;
      Vec total[kTile] = {};
      for (int64_t q = 0; q < size; q += kLanes) {
        const Vec left = load(a + t * kChunk + q);
        if (n == kTile)
          for (int64_t j = 0; j < kTile; ++j)
            total[j] += left * load(b + b_offset[j0 + j] + q);
        else
          for (int64_t j = 0; j < n; ++j)
            total[j] += left * load(b + b_offset[j0 + j] + q);
      }
      for (int64_t j = 0; j < n; ++j)
        products[t * k + j0 + j] += sum(total[j]);
    }
}

// One block of 16 positions. Gradients: `grad` holds dL/dy and receives the
// gradient before the ReLU, `grad_taps` receives the gradient of the taps.
template <int64_t TAPS, bool ATTENDS, bool BACKWARD, typename T>
INLINE void block(const Strip<T>& s, int64_t k, const float* source,
                  const int64_t* tap, float highest, float lowest,
                  float* value, float* grad, float* grad_taps,
                  Vec* gain_total) {
  constexpr int64_t kMost = most<TAPS>();
  Vec u[kMost], alpha[kMost], product[kMost], slope[kMost];
  const float share = 1.0f / static_cast<float>(k);
  Vec pooled = {};
  for (int64_t t = 0; t < k; ++t) {
    u[t] = load(source + tap[t]);
    pooled += u[t];
  }
  pooled *= share;
  if (ATTENDS) {
    // The largest score is known before any exponential.
    const Vec peak = pooled > 0.0f ? splat(highest) : splat(lowest);
    Vec total = {};
    for (int64_t t = 0; t < k; ++t) {
      alpha[t] = exp_negative(pooled * (s.gain[t] - peak));
      total += alpha[t];
    }
    const Vec inverse = 1.0f / total;
    for (int64_t t = 0; t < k; ++t) alpha[t] *= inverse;
  }
  Vec inner = {};
  for (int64_t t = 0; t < k; ++t) {
    Vec f = splat(s.shift[t]);
    for (int64_t j = 0; j < k; ++j) f += u[j] * s.weight[t * k + j];
    // Written so that a NaN stays one.
    const Vec y = f < 0.0f ? Vec{} : (ATTENDS ? alpha[t] * f : f);
    store(value + t * kChunk, y);
    if (BACKWARD) {
      const Vec dy = load(grad + t * kChunk);
      slope[t] = f > 0.0f ? (ATTENDS ? alpha[t] * dy : dy) : Vec{};
      store(grad + t * kChunk, slope[t]);
      if (ATTENDS) {
        product[t] = y * dy;
        inner += product[t];
      }
    }
  }
  if (!BACKWARD) return;
  Vec base = {};
  if (ATTENDS) {
    for (int64_t t = 0; t < k; ++t) {
      const Vec score = product[t] - alpha[t] * inner;
      gain_total[t] += pooled * score;
      base += score * s.gain[t];
    }
    base *= share;
  }
  for (int64_t j = 0; j < k; ++j) {
    Vec du = base;
    for (int64_t t = 0; t < k; ++t) du += slope[t] * s.weight[t * k + j];
    store(grad_taps + j * kChunk, du);
  }
}

template <int64_t TAPS, bool ATTENDS, bool BACKWARD, typename T>
void features_of(const Strip<T>& s) {
  thread_local Plane plane, grad_plane;
  thread_local Buffer values, grads, taps;
  const Geometry& g = s.geometry;
  const int64_t k = TAPS ? TAPS : g.taps();
  plane.shape(g, s.first, s.rows);
  plane.fill(s.x);
  float* value = values.zeros(k * kChunk);
  float *grad = nullptr, *grad_taps = nullptr;
  if (BACKWARD) {
    grad_plane.shape(g, s.first, s.rows);
    grad = grads.zeros(k * kChunk);
    grad_taps = taps.zeros(k * kChunk);
  }
  int64_t tap[most<TAPS>()];
  for (int64_t t = 0; t < k; ++t) tap[t] = plane.tap(t);
  float highest = 0, lowest = 0;  // of the gain
  for (int64_t t = 0; ATTENDS && t < k; ++t) {
    highest = t == 0 || s.gain[t] > highest ? s.gain[t] : highest;
    lowest = t == 0 || s.gain[t] < lowest ? s.gain[t] : lowest;
  }
  Vec gain_total[most<TAPS>()];
  for (int64_t t = 0; t < k; ++t) gain_total[t] = Vec{};

  for (int64_t run = 0; run < plane.runs(); ++run)
    for (int64_t at = 0; at < plane.run_length(); at += kChunk) {
      const int64_t begin = plane.run_begin(run) + at;
      const int64_t left = plane.run_length() - at;
      const int64_t size = left < kChunk ? left : kChunk;
      const float* source = plane.data + begin;
      if (BACKWARD) {
        std::memset(grad, 0, k * kChunk * sizeof(float));
        plane.pieces(begin, size, [&](int64_t pixel, int64_t q, int64_t n) {
          for (int64_t t = 0; t < k; ++t) {
            const T* from = s.grad_y + t * s.pitch + pixel;
            float* to = grad + t * kChunk + q;
            for (int64_t i = 0; i < n; ++i) to[i] = number(from[i]);
          }
        });
      }
      for (int64_t q = 0; q < size; q += kLanes)
        block<TAPS, ATTENDS, BACKWARD>(s, k, source + q, tap, highest, lowest,
                                       value + q, grad + q, grad_taps + q,
                                       gain_total);
      plane.pieces(begin, size, [&](int64_t pixel, int64_t q, int64_t n) {
        for (int64_t t = 0; t < k; ++t) {
          const float* from = value + t * kChunk + q;
          T* to = s.y + t * s.pitch + pixel;
          for (int64_t i = 0; i < n; ++i) put(to + i, from[i]);
        }
      });
      if (!BACKWARD) continue;
      for (int64_t t = 0; t < k; ++t) {
        float* target = grad_plane.data + begin + tap[t];
        Vec total = {};
        for (int64_t q = 0; q < size; q += kLanes) {
          store(target + q, load(target + q) + load(grad_taps + t * kChunk + q));
          total += load(grad + t * kChunk + q);
        }
        s.grad_shift[t] += sum(total);
      }
      add_products(k, size, grad, source, tap, s.grad_weight);
    }
  if (!BACKWARD) return;
  grad_plane.add_to(s.grad_x);
  for (int64_t t = 0; ATTENDS && t < k; ++t)
    s.grad_gain[t] += sum(gain_total[t]);
}

template <int64_t TAPS, typename T>
void features_with(const Strip<T>& s) {
  if (s.grad_y != nullptr)
    s.gain != nullptr ? features_of<TAPS, true, true>(s)
                      : features_of<TAPS, false, true>(s);
  else
    s.gain != nullptr ? features_of<TAPS, true, false>(s)
                      : features_of<TAPS, false, false>(s);
}

template <typename T>
void features_any(const Strip<T>& s) {
  switch (s.geometry.taps()) {
    case 1: return features_with<1>(s);
    case 9: return features_with<9>(s);
    default: return features_with<0>(s);
  }
}

// Calls each(plane, begin, size, mask) for chunks of q that cover all images;
// the mask is 1 at the positions that count, 0 at garbage.
template <typename T, typename F>
INLINE void sweep(const Moments<T>& m, Plane& plane, float* mask, F each) {
  const Geometry& g = m.geometry;
  for (int64_t n = 0; n < m.images; ++n)
    for (int64_t first = 0; first < g.out_height; first += kRows) {
      const int64_t left = g.out_height - first;
      plane.shape(g, first, left < kRows ? left : kRows);
      plane.fill(m.x + n * m.stride);
      for (int64_t run = 0; run < plane.runs(); ++run)
        for (int64_t at = 0; at < plane.run_length(); at += kChunk) {
          const int64_t begin = plane.run_begin(run) + at;
          const int64_t rest = plane.run_length() - at;
          const int64_t size = rest < kChunk ? rest : kChunk;
          std::memset(mask, 0, kChunk * sizeof(float));
          plane.pieces(begin, size, [&](int64_t, int64_t q, int64_t count) {
            for (int64_t i = 0; i < count; ++i) mask[q + i] = 1.0f;
          });
          each(n, first, begin, size);
        }
    }
}

template <typename T>
void moments_any(const Moments<T>& m) {
  thread_local Plane plane;
  thread_local Buffer masks, centres;
  const int64_t k = m.geometry.taps();
  float* mask = masks.zeros(kChunk);
  float* centred = centres.zeros(k * kChunk);
  int64_t own[kMostTaps];
  for (int64_t t = 0; t < k; ++t) own[t] = t * kChunk;
  const double scale =
      1.0 / (static_cast<double>(m.images) * m.geometry.out_height *
             m.geometry.out_width);
  for (int64_t t = 0; t < k; ++t) m.mean[t] = 0;
  for (int64_t t = 0; t < k * k; ++t) m.covariance[t] = 0;
  sweep(m, plane, mask,
        [&](int64_t, int64_t, int64_t begin, int64_t size) {
          for (int64_t t = 0; t < k; ++t) {
            const float* source = plane.data + begin + plane.tap(t);
            Vec total = {};
            for (int64_t q = 0; q < size; q += kLanes)
              total += load(source + q) * load(mask + q);
            m.mean[t] += sum(total);
          }
        });
  for (int64_t t = 0; t < k; ++t) m.mean[t] *= scale;
  sweep(m, plane, mask,
        [&](int64_t, int64_t, int64_t begin, int64_t size) {
          for (int64_t t = 0; t < k; ++t) {
            const float* source = plane.data + begin + plane.tap(t);
            const float mean = static_cast<float>(m.mean[t]);
            for (int64_t q = 0; q < size; q += kLanes)
              store(centred + t * kChunk + q,
                    (load(source + q) - mean) * load(mask + q));
          }
          add_products(k, size, centred, centred, own, m.covariance);
        });
  // The float mean that was subtracted differs from the mean by rounding.
  for (int64_t t = 0; t < k * k; ++t) m.covariance[t] *= scale;
}

template <typename T>
void moments_backward_any(const Moments<T>& m) {
  thread_local Plane plane, grad_plane;
  thread_local Buffer masks;
  const int64_t k = m.geometry.taps();
  float* mask = masks.zeros(kChunk);
  int64_t tap[kMostTaps];
  int64_t image = -1, row = -1;
  sweep(m, plane, mask,
        [&](int64_t n, int64_t first, int64_t begin, int64_t size) {
          if (n != image || first != row) {  // a new plane
            if (image >= 0) grad_plane.add_to(m.grad_x + image * m.stride);
            grad_plane.shape(m.geometry, first, plane.count);
            for (int64_t t = 0; t < k; ++t) tap[t] = plane.tap(t);
            image = n;
            row = first;
          }
          const float* source = plane.data + begin;
          float* target = grad_plane.data + begin;
          for (int64_t t = 0; t < k; ++t)
            for (int64_t q = 0; q < size; q += kLanes) {
              Vec du = splat(m.offset[t]);
              for (int64_t j = 0; j < k; ++j)
                du += load(source + tap[j] + q) * m.slope[t * k + j];
              float* p = target + tap[t] + q;
              store(p, load(p) + du * load(mask + q));
            }
        });
  if (image >= 0) grad_plane.add_to(m.grad_x + image * m.stride);
}

}  // namespace

void features(const Strip<float>& s) { features_any(s); }
void features(const Strip<uint16_t>& s) { features_any(s); }
void moments(const Moments<float>& m) { moments_any(m); }
void moments(const Moments<uint16_t>& m) { moments_any(m); }
void moments_backward(const Moments<float>& m) { moments_backward_any(m); }
void moments_backward(const Moments<uint16_t>& m) { moments_backward_any(m); }

}  // namespace MMRFA_ISA
}  // namespace mmrfa
