// Sums over pixels, lane by lane.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

// K at compile time for the usual kernel, else at run time (TAPS = 0).
template <int64_t TAPS>
constexpr int64_t most() { return TAPS ? TAPS : kMostTaps; }

// products[t * k + j] += a[t] * b[j] for some t and j over a chunk, lane by
// lane; as many sums as registers can hold and a load is worth.
template <int64_t ROWS, int64_t COLUMNS>
INLINE void add_tile(int64_t k, int64_t size, const float* a, const float* b,
                     float* products) {
  Vec total[ROWS][COLUMNS];
  UNROLL for (int64_t t = 0; t < ROWS; ++t)
    UNROLL for (int64_t j = 0; j < COLUMNS; ++j)
      total[t][j] = load(products + (t * k + j) * kLanes);
  for (int64_t q = 0; q < size; q += kLanes) {
    Vec right[COLUMNS];
    UNROLL for (int64_t j = 0; j < COLUMNS; ++j)
      right[j] = load(b + j * kRow + q);
    UNROLL for (int64_t t = 0; t < ROWS; ++t) {
      const Vec left = load(a + t * kRow + q);
      UNROLL for (int64_t j = 0; j < COLUMNS; ++j)
        total[t][j] += left * right[j];
    }
  }
  UNROLL for (int64_t t = 0; t < ROWS; ++t)
    UNROLL for (int64_t j = 0; j < COLUMNS; ++j)
      store(products + (t * k + j) * kLanes, total[t][j]);
}

// All of them; where `triangle` says so, those with j <= t at least.
INLINE void add_products(int64_t k, int64_t size, const float* a,
                         const float* b, bool triangle, float* products) {
  constexpr int64_t kTile = 3;
  const int64_t whole = k / kTile * kTile;
  for (int64_t t = 0; t < whole; t += kTile)
    for (int64_t j = 0; j < (triangle ? t + 1 : whole); j += kTile)
      add_tile<kTile, kTile>(k, size, a + t * kRow, b + j * kRow,
                             products + (t * k + j) * kLanes);
  for (int64_t t = 0; t < k; ++t)
    for (int64_t j = t < whole ? whole : 0; j < k; ++j)
      add_tile<1, 1>(k, size, a + t * kRow, b + j * kRow,
                     products + (t * k + j) * kLanes);
}

// The taps and their products, summed; in float, and short, before they are
// flushed: to mean (K) and, of covariance (K, K), the lower triangle.
struct Sums {
  int64_t k;
  float *products, *totals;  // (K, K) and (K) vectors
  double *mean, *covariance;

  Sums(int64_t k, double* mean, double* covariance)
      : k(k), mean(mean), covariance(covariance) {
    thread_local Buffer product_buffer, total_buffer;
    products = product_buffer.zeros(k * k * kLanes);
    totals = total_buffer.zeros(k * kLanes);
  }
  INLINE void add(int64_t tap, Vec total) {
    float* own = totals + tap * kLanes;
    store(own, load(own) + total);
  }
  INLINE void add(int64_t tap, int64_t other, Vec product) {
    float* own = products + (tap * k + other) * kLanes;
    store(own, load(own) + product);
  }
  void flush() {
    for (int64_t t = 0; t < k; ++t) {
      mean[t] += sum(load(totals + t * kLanes));
      for (int64_t j = 0; j <= t; ++j)
        covariance[t * k + j] += sum(load(products + (t * k + j) * kLanes));
    }
    std::memset(products, 0, k * k * kLanes * sizeof(float));
    std::memset(totals, 0, k * kLanes * sizeof(float));
  }
};

}  // namespace

}  // namespace MMRFA_ISA
}  // namespace mmrfa
