// Features of one channel, weighted or not, and their gradients.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

// What stays the same for all pixels of a channel.
struct Constants {
  const float *weight, *shift, *gain;
  // In units of log2, for a sum over the taps instead of their mean.
  float scaled_gain[kMostTaps], highest, lowest;

  template <typename T>
  Constants(const Features<T>& f, int64_t k)
      : weight(f.weight), shift(f.shift), gain(f.gain), highest(0), lowest(0) {
    if (f.form != Form::kAttention) return;
    for (int64_t t = 0; t < k; ++t) {
      scaled_gain[t] = gain[t] * 1.44269504f / static_cast<float>(k);
      if (t == 0 || scaled_gain[t] > highest) highest = scaled_gain[t];
      if (t == 0 || scaled_gain[t] < lowest) lowest = scaled_gain[t];
    }
  }
};

// Sums over pixels, lane by lane.
template <int64_t TAPS>
struct Totals {
  Vec gain[most<TAPS>()], shift[most<TAPS>()];
  explicit Totals(int64_t k) {
    for (int64_t t = 0; t < k; ++t) gain[t] = shift[t] = Vec{};
  }
};

// One vector of pixels, n of them wanted. `slopes` receives the gradient of
// f, `grad_taps` that of the taps.
template <int64_t TAPS, bool ATTENDS, bool BACKWARD, typename T>
INLINE void block(const Constants& c, int64_t k, const float* taps, int64_t n,
                  T* y, const T* grad_y, int64_t pitch, float* slopes,
                  float* grad_taps, Totals<TAPS>& total) {
  constexpr int64_t kMost = most<TAPS>();
  Vec u[kMost], alpha[kMost], slope[kMost], product[kMost];
  Vec pooled = {};
  UNROLL for (int64_t t = 0; t < k; ++t) {
    u[t] = load(taps + t * kRow);
    pooled += u[t];
  }
  if (ATTENDS) {
    // The largest score is known before any exponential.
    const Vec top = pooled * (pooled > 0.0f ? splat(c.highest)
                                            : splat(c.lowest));
    Vec sum = {};
    UNROLL for (int64_t t = 0; t < k; ++t) {
      alpha[t] = exp2_negative(pooled * c.scaled_gain[t] - top);
      sum += alpha[t];
    }
    const Vec inverse = reciprocal(sum);
    UNROLL for (int64_t t = 0; t < k; ++t) alpha[t] *= inverse;
  }
  Vec inner = {};
  UNROLL for (int64_t t = 0; t < k; ++t) {
    Vec f = splat(c.shift[t]);
    UNROLL for (int64_t j = 0; j < k; ++j) f += u[j] * c.weight[t * k + j];
    const Vec active = maximum(Vec{}, f);
    const Vec value = ATTENDS ? alpha[t] * active : active;
    if (BACKWARD) {
      const Vec dy = load(grad_y + t * pitch, n);
      slope[t] = f > 0.0f ? (ATTENDS ? alpha[t] * dy : dy) : Vec{};
      store(slopes + t * kRow, slope[t]);
      total.shift[t] += slope[t];
      if (ATTENDS) {
        product[t] = value * dy;
        inner += product[t];
      }
    }
    if (!BACKWARD || y != nullptr) store(y + t * pitch, value, n);
  }
  if (!BACKWARD) return;
  Vec base = {};
  if (ATTENDS) {
    const float share = 1.0f / static_cast<float>(k);
    const Vec mean = pooled * share;
    UNROLL for (int64_t t = 0; t < k; ++t) {
      const Vec score = product[t] - alpha[t] * inner;
      total.gain[t] += mean * score;
      base += score * c.gain[t];
    }
    base *= share;
  }
  UNROLL for (int64_t j = 0; j < k; ++j) {
    Vec du = base;
    UNROLL for (int64_t t = 0; t < k; ++t)
      du += slope[t] * c.weight[t * k + j];
    store(grad_taps + j * kRow, du);
  }
}

// The same for the unfold form.
template <int64_t TAPS, bool BACKWARD, typename T>
INLINE void unfold_block(const Constants& c, int64_t k, const float* taps,
                         int64_t n, T* y, const T* grad_y, int64_t pitch,
                         float* slopes, float* grad_taps,
                         Totals<TAPS>& total) {
  constexpr int64_t kMost = most<TAPS>();
  Vec u[kMost], alpha[kMost], dy[kMost], slope[kMost];
  UNROLL for (int64_t t = 0; t < k; ++t) u[t] = load(taps + t * kRow);
  Vec top = splat(-__builtin_inff());
  UNROLL for (int64_t t = 0; t < k; ++t) {
    Vec f = splat(c.shift[t]);
    UNROLL for (int64_t j = 0; j < k; ++j) f += u[j] * c.weight[t * k + j];
    alpha[t] = f * 1.44269504f;
    top = maximum(top, alpha[t]);
  }
  Vec sum = {};
  UNROLL for (int64_t t = 0; t < k; ++t) {
    alpha[t] = exp2_negative(alpha[t] - top);
    sum += alpha[t];
  }
  const Vec inverse = reciprocal(sum);
  Vec inner = {};
  UNROLL for (int64_t t = 0; t < k; ++t) {
    alpha[t] *= inverse;
    const Vec value = alpha[t] * u[t];
    if (BACKWARD) {
      dy[t] = load(grad_y + t * pitch, n);
      inner += value * dy[t];
    }
    store(y + t * pitch, value, n);
  }
  if (!BACKWARD) return;
  UNROLL for (int64_t t = 0; t < k; ++t) {
    slope[t] = alpha[t] * (u[t] * dy[t] - inner);
    store(slopes + t * kRow, slope[t]);
    total.shift[t] += slope[t];
  }
  UNROLL for (int64_t j = 0; j < k; ++j) {
    Vec du = alpha[j] * dy[j];
    UNROLL for (int64_t t = 0; t < k; ++t)
      du += slope[t] * c.weight[t * k + j];
    store(grad_taps + j * kRow, du);
  }
}

template <int64_t TAPS, Form FORM, bool BACKWARD, typename T>
void features_of(const Features<T>& f) {
  thread_local Buffer slope_buffer, tap_buffer, product_buffer;
  const int64_t k = TAPS ? TAPS : f.channel.geometry.taps();
  const Constants constants(f, k);
  float *slopes = nullptr, *grad_taps = nullptr, *products = nullptr;
  Totals<TAPS> total(BACKWARD ? k : 0);
  if (BACKWARD) {
    slopes = slope_buffer.room(k * kRow);
    grad_taps = tap_buffer.room(k * kRow);
    products = product_buffer.zeros(k * k * kLanes);
  }
  sweep(f.channel, k, grad_taps,
        [&](int64_t image, int64_t pixel, int64_t size, const float* taps) {
          const int64_t at = image * f.step + pixel;
          auto run = [&](int64_t q, int64_t lanes) INLINE_LAMBDA {
            T* y = BACKWARD && f.y == nullptr ? nullptr : f.y + at + q;
            const T* grad_y = BACKWARD ? f.grad_y + at + q : nullptr;
            if (FORM == Form::kUnfold)
              unfold_block<TAPS, BACKWARD>(constants, k, taps + q, lanes, y,
                                           grad_y, f.pitch, slopes + q,
                                           grad_taps + q, total);
            else
              block<TAPS, FORM == Form::kAttention, BACKWARD>(
                  constants, k, taps + q, lanes, y, grad_y, f.pitch,
                  slopes + q, grad_taps + q, total);
          };
          int64_t q = 0;
          for (; q + kLanes <= size; q += kLanes) run(q, kLanes);
          if (q < size) run(q, size - q);
          if (BACKWARD) add_products(k, size, slopes, taps, false, products);
        });
  if (!BACKWARD) return;
  for (int64_t t = 0; t < k; ++t) {
    f.grad_shift[t] += sum(total.shift[t]);
    if (FORM == Form::kAttention) f.grad_gain[t] += sum(total.gain[t]);
  }
  for (int64_t i = 0; i < k * k; ++i)
    f.grad_weight[i] += sum(load(products + i * kLanes));
}

template <int64_t TAPS, Form FORM, typename T>
void features_as(const Features<T>& f) {
  f.grad_y == nullptr ? features_of<TAPS, FORM, false>(f)
                      : features_of<TAPS, FORM, true>(f);
}
template <int64_t TAPS, typename T>
void features_with(const Features<T>& f) {
  switch (f.form) {
    case Form::kFeatures: return features_as<TAPS, Form::kFeatures>(f);
    case Form::kAttention: return features_as<TAPS, Form::kAttention>(f);
    case Form::kUnfold: return features_as<TAPS, Form::kUnfold>(f);
  }
}

template <typename T>
void features_any(const Features<T>& f) {
  f.channel.geometry.taps() == 9 ? features_with<9>(f) : features_with<0>(f);
}

}  // namespace

void features(const Features<float>& f) { features_any(f); }
void features(const Features<uint16_t>& f) { features_any(f); }

}  // namespace MMRFA_ISA
}  // namespace mmrfa
