// Features of one channel, weighted or not, and their gradients.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

// What stays the same for all pixels of a channel.
struct Constants {
  const float *weight, *shift, *gain;
  // Less that of the first tap, whose exponential is 1 then; in units of log2,
  // for a sum over the taps instead of their mean.
  float scaled_gain[kMostTaps], highest, lowest;
  // Of the size of that sum: up to it no exponential needs the largest score.
  float near;

  template <typename T>
  Constants(const Features<T>& f, int64_t k)
      : weight(f.weight), shift(f.shift), gain(f.gain), highest(0), lowest(0),
        near(0) {
    if (f.form != Form::kAttention) return;
    for (int64_t t = 0; t < k; ++t) {
      scaled_gain[t] =
          (gain[t] - gain[0]) * 1.44269504f / static_cast<float>(k);
      if (t == 0 || scaled_gain[t] > highest) highest = scaled_gain[t];
      if (t == 0 || scaled_gain[t] < lowest) lowest = scaled_gain[t];
    }
    near = 60.0f / (highest > -lowest ? highest : -lowest);
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

// Taps at a time that share a load of every input: with kVectors as many sums
// as there are registers for.
template <int64_t TAPS>
constexpr int64_t together() { return TAPS % 3 == 0 && TAPS ? 3 : 1; }

// total[r][v] += the sum over j of in[j][v] * weight[r * down + j * along].
template <int64_t ROWS, int64_t V>
INLINE void add_weighted(const float* weight, int64_t down, int64_t along,
                         int64_t k, const float* in, Vec (*total)[V]) {
  UNROLL for (int64_t j = 0; j < k; ++j) {
    Vec u[V];
    UNROLL for (int64_t v = 0; v < V; ++v) u[v] = load(in + j * kRow + v * kLanes);
    UNROLL for (int64_t r = 0; r < ROWS; ++r) {
      const float w = weight[r * down + j * along];
      UNROLL for (int64_t v = 0; v < V; ++v) total[r][v] += u[v] * w;
    }
  }
}

// The features of some taps, before the ReLU or the softmax.
template <int64_t ROWS, int64_t V>
INLINE void scores(const Constants& c, int64_t k, int64_t first,
                   const float* taps, Vec (*f)[V]) {
  UNROLL for (int64_t r = 0; r < ROWS; ++r)
    UNROLL for (int64_t v = 0; v < V; ++v) f[r][v] = splat(c.shift[first + r]);
  add_weighted<ROWS, V>(c.weight + first * k, k, 1, k, taps, f);
}

// The attention of a chunk: the softmax over the taps of gain * their mean.
// Chunk by chunk, here and below, the processor looks ahead into the next
// pixels; all steps of one block in a row leave it waiting at each of them.
template <int64_t TAPS>
INLINE void attend(const Constants& c, int64_t k, int64_t size,
                   const float* taps, float* alpha) {
  float pooled[kRow];
  bool near = true;
  for (int64_t q = 0; q < size; q += kLanes) {
    Vec sum = {};
    UNROLL for (int64_t t = 0; t < k; ++t) sum += load(taps + t * kRow + q);
    store(pooled + q, sum);
    near &= all_within(sum, c.near);
  }
  if (near) {
    for (int64_t t = 1; t < k; ++t)
      for (int64_t q = 0; q < size; q += kLanes)
        store(alpha + t * kRow + q,
              exp2_product(load(pooled + q), c.scaled_gain[t]));
    for (int64_t q = 0; q < size; q += kLanes) {
      Vec sum = splat(1.0f);
      UNROLL for (int64_t t = 1; t < k; ++t) sum += load(alpha + t * kRow + q);
      const Vec inverse = reciprocal(sum);
      store(alpha + q, inverse);
      UNROLL for (int64_t t = 1; t < k; ++t)
        store(alpha + t * kRow + q, load(alpha + t * kRow + q) * inverse);
    }
    return;
  }
  for (int64_t q = 0; q < size; q += kLanes) {
    const Vec here = load(pooled + q);
    // The largest score is known before any exponential.
    const Vec top = here * (here > 0.0f ? splat(c.highest) : splat(c.lowest));
    Vec sum = {}, power[most<TAPS>()];
    for (int64_t t = 0; t < k; ++t)
      sum += power[t] = exp2_negative(here * c.scaled_gain[t] - top);
    const Vec inverse = reciprocal(sum);
    for (int64_t t = 0; t < k; ++t)
      store(alpha + t * kRow + q, power[t] * inverse);
  }
}

// Its adjoint: the gradient of the gain, and that of every tap through the
// mean. `products` are the values times their gradients.
template <int64_t TAPS>
INLINE void attend_backward(const Constants& c, int64_t k, int64_t size,
                            const float* taps, const float* alpha,
                            const float* products, float* grad_mean,
                            Totals<TAPS>& total) {
  const float share = 1.0f / static_cast<float>(k);
  for (int64_t q = 0; q < size; q += kLanes) {
    Vec mean = {}, inner = {}, slope = {};
    UNROLL for (int64_t t = 0; t < k; ++t) {
      mean += load(taps + t * kRow + q);
      inner += load(products + t * kRow + q);
    }
    mean *= share;
    UNROLL for (int64_t t = 0; t < k; ++t) {
      const int64_t at = t * kRow + q;
      const Vec score = load(products + at) - load(alpha + at) * inner;
      total.gain[t] += mean * score;
      slope += score * c.gain[t];
    }
    store(grad_mean + q, slope * share);
  }
}

// Where V vectors of a layout begin, and how many pixels of a single one are
// wanted.
template <int64_t V>
struct Place {
  int64_t at[V], pitch, n;
  INLINE Place(const Layout& layout, int64_t image, int64_t pixel, int64_t n)
      : pitch(layout.pitch), n(n) {
    UNROLL for (int64_t v = 0; v < V; ++v)
      at[v] = offset(layout, image * layout.step + pixel + v * kLanes);
  }
};

// V vectors of pixels. `slopes` receives the gradient of f, `products` that of
// the value, times the value.
template <int64_t TAPS, bool ATTENDS, bool BACKWARD, int64_t V>
INLINE void block(const Constants& c, int64_t k, const float* taps,
                  const float* alpha, const Place<V>& place, float* y,
                  const float* grad_y, float* slopes, float* products,
                  Totals<TAPS>& total) {
  constexpr int64_t kRows = together<TAPS>();
  UNROLL for (int64_t first = 0; first < k; first += kRows) {
    Vec f[kRows][V];
    scores<kRows, V>(c, k, first, taps, f);
    UNROLL for (int64_t r = 0; r < kRows; ++r)
      UNROLL for (int64_t v = 0; v < V; ++v) {
        const int64_t t = first + r, at = t * place.pitch + place.at[v];
        const int64_t here = t * kRow + v * kLanes;
        const Vec active = maximum(Vec{}, f[r][v]);
        const Vec value = ATTENDS ? load(alpha + here) * active : active;
        if (BACKWARD) {
          const Vec dy = load(grad_y + at, place.n);
          const Vec slope = ATTENDS ? load(alpha + here) * dy : dy;
          const Vec passed = f[r][v] > 0.0f ? slope : Vec{};
          store(slopes + here, passed);
          total.shift[t] += passed;
          if (ATTENDS) store(products + here, value * dy);
        }
        if (!BACKWARD || y != nullptr) store(y + at, value, place.n);
      }
  }
}

// The gradient of the taps, through the mean and the features.
template <int64_t TAPS, bool ATTENDS, int64_t V>
INLINE void block_backward(const Constants& c, int64_t k, const float* slopes,
                           const float* grad_mean, float* grad_taps) {
  constexpr int64_t kRows = together<TAPS>();
  UNROLL for (int64_t first = 0; first < k; first += kRows) {
    Vec du[kRows][V];
    UNROLL for (int64_t r = 0; r < kRows; ++r)
      UNROLL for (int64_t v = 0; v < V; ++v)
        du[r][v] = ATTENDS ? load(grad_mean + v * kLanes) : Vec{};
    add_weighted<kRows, V>(c.weight + first, 1, k, k, slopes, du);
    UNROLL for (int64_t r = 0; r < kRows; ++r)
      UNROLL for (int64_t v = 0; v < V; ++v)
        store(grad_taps + (first + r) * kRow + v * kLanes, du[r][v]);
  }
}

// The same for the unfold form.
template <int64_t TAPS, bool BACKWARD, int64_t V>
INLINE void unfold_block(const Constants& c, int64_t k, const float* taps,
                         const Place<V>& place, float* y, const float* grad_y,
                         float* slopes, float* grad_taps,
                         Totals<TAPS>& total) {
  constexpr int64_t kMost = most<TAPS>(), kRows = together<TAPS>();
  Vec alpha[kMost][V], dy[kMost][V], top[V], inner[V];
  UNROLL for (int64_t v = 0; v < V; ++v) {
    top[v] = splat(-__builtin_inff());
    inner[v] = Vec{};
  }
  UNROLL for (int64_t first = 0; first < k; first += kRows) {
    Vec f[kRows][V];
    scores<kRows, V>(c, k, first, taps, f);
    UNROLL for (int64_t r = 0; r < kRows; ++r)
      UNROLL for (int64_t v = 0; v < V; ++v) {
        alpha[first + r][v] = f[r][v] * 1.44269504f;
        top[v] = maximum(top[v], alpha[first + r][v]);
      }
  }
  UNROLL for (int64_t v = 0; v < V; ++v) {
    Vec sum = {};
    UNROLL for (int64_t t = 0; t < k; ++t) {
      alpha[t][v] = exp2_negative(alpha[t][v] - top[v]);
      sum += alpha[t][v];
    }
    const Vec inverse = reciprocal(sum);
    UNROLL for (int64_t t = 0; t < k; ++t) {
      const int64_t at = t * place.pitch + place.at[v];
      alpha[t][v] *= inverse;
      const Vec value = alpha[t][v] * load(taps + t * kRow + v * kLanes);
      if (BACKWARD) {
        dy[t][v] = load(grad_y + at, place.n);
        // Kept: rounded once and not again, so that one tap has no gradient.
        const Vec product = value * dy[t][v];
        store(slopes + t * kRow + v * kLanes, product);
        inner[v] += product;
      }
      store(y + at, value, place.n);
    }
  }
  if (!BACKWARD) return;
  UNROLL for (int64_t v = 0; v < V; ++v)
    UNROLL for (int64_t t = 0; t < k; ++t) {
      const int64_t at = t * kRow + v * kLanes;
      const Vec slope = load(slopes + at) - alpha[t][v] * inner[v];
      store(slopes + at, slope);
      total.shift[t] += slope;
    }
  UNROLL for (int64_t first = 0; first < k; first += kRows) {
    Vec du[kRows][V];
    UNROLL for (int64_t r = 0; r < kRows; ++r)
      UNROLL for (int64_t v = 0; v < V; ++v)
        du[r][v] = alpha[first + r][v] * dy[first + r][v];
    add_weighted<kRows, V>(c.weight + first, 1, k, k, slopes, du);
    UNROLL for (int64_t r = 0; r < kRows; ++r)
      UNROLL for (int64_t v = 0; v < V; ++v)
        store(grad_taps + (first + r) * kRow + v * kLanes, du[r][v]);
  }
}

// each(number of vectors, first pixel, pixels) over a chunk.
template <int64_t TAPS, typename F>
INLINE void by_blocks(int64_t size, F each) {
  constexpr std::integral_constant<int64_t, TAPS ? kVectors : 1> many;
  constexpr std::integral_constant<int64_t, 1> one;
  int64_t q = 0;
  for (; q + many * kLanes <= size; q += many * kLanes) each(many, q, kLanes);
  for (; q + kLanes <= size; q += kLanes) each(one, q, kLanes);
  if (q < size) each(one, q, size - q);
}

template <int64_t TAPS, Form FORM, bool BACKWARD, typename T>
void features_of(const Features<T>& f) {
  constexpr bool kAttends = FORM == Form::kAttention;
  thread_local Buffer slope_buffer, tap_buffer, product_buffer, alpha_buffer,
      mean_buffer;
  const int64_t k = TAPS ? TAPS : f.channel.geometry.taps();
  const Constants constants(f, k);
  float *slopes = nullptr, *grad_taps = nullptr, *products = nullptr;
  float *alpha = nullptr, *grad_mean = nullptr;
  Totals<TAPS> total(BACKWARD ? k : 0);
  if (kAttends) alpha = alpha_buffer.room(k * kRow);
  if (BACKWARD) {
    slopes = slope_buffer.room(k * kRow);
    grad_taps = tap_buffer.room(k * kRow);
    grad_mean = mean_buffer.room(kRow);
    products = product_buffer.zeros(k * k * kLanes);
  }
  sweep(f.channel, k, grad_taps,
        [&](int64_t image, int64_t pixel, int64_t size, const float* taps) {
          if (kAttends) attend<TAPS>(constants, k, size, taps, alpha);
          by_blocks<TAPS>(size, [&](auto vectors, int64_t q, int64_t n)
                                    INLINE_LAMBDA {
            constexpr int64_t V = decltype(vectors)::value;
            // Panels have room for whole vectors, which are faster to store,
            // and their gradients are zero behind the last pixel.
            const Place<V> place(f.layout, image, pixel + q,
                                 f.layout.panel != 0 ? kLanes : n);
            if constexpr (FORM == Form::kUnfold)
              unfold_block<TAPS, BACKWARD, V>(constants, k, taps + q, place,
                                              f.y, f.grad_y, slopes + q,
                                              grad_taps + q, total);
            else  // products go where the gradients of the taps will
              block<TAPS, kAttends, BACKWARD, V>(
                  constants, k, taps + q, alpha + q, place, f.y, f.grad_y,
                  slopes + q, grad_taps + q, total);
          });
          if constexpr (BACKWARD && kAttends)
            attend_backward(constants, k, size, taps, alpha, grad_taps,
                            grad_mean, total);
          if constexpr (BACKWARD && FORM != Form::kUnfold)
            by_blocks<TAPS>(size, [&](auto vectors, int64_t q, int64_t)
                                      INLINE_LAMBDA {
              block_backward<TAPS, kAttends, decltype(vectors)::value>(
                  constants, k, slopes + q, grad_mean + q, grad_taps + q);
            });
          if (BACKWARD) add_products(k, size, slopes, taps, false, products);
        });
  if (!BACKWARD) return;
  for (int64_t t = 0; t < k; ++t) {
    f.grad_shift[t] += wide_sum(total.shift[t]);
    if (FORM == Form::kAttention) f.grad_gain[t] += sum(total.gain[t]);
  }
  for (int64_t i = 0; i < k * k; ++i)
    f.grad_weight[i] += wide_sum(load(products + i * kLanes));
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
