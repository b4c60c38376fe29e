// Moments of the receptive field of one channel.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

// The mean of the pixels that windows sample, or of all of them.
template <typename T>
float centre_of(const Moments<T>& m) {
  const Channel<T>& c = m.channel;
  const Geometry& g = c.geometry;
  const bool all = m.row_seen == nullptr;
  const int64_t rows = all ? 1 : g.height;
  const int64_t size = all ? g.height * g.width : g.width;
  double whole = 0;
  int64_t count = 0;
  for (int64_t row = 0; row < rows; ++row) {
    if (!all && m.row_seen[row] == 0) continue;
    for (int64_t n = 0; n < c.images; ++n) {
      const T* x = c.x + n * c.step + row * size;
      Vec total = {};
      for (int64_t i = 0; i < size; i += kLanes) {
        Vec v = load(x + i, size - i);
        if (!all)
          v = (Vec)((IntVec)v &
                    *reinterpret_cast<const IntVec*>(m.column_seen + i));
        total += v;
      }
      whole += sum(total);
    }
    count += size;
  }
  if (!all && count > 0) {
    int64_t seen = 0;
    for (int64_t i = 0; i < size; ++i) seen += m.column_seen[i] != 0;
    count = count / size * seen;
  }
  if (count == 0) return 0;
  return static_cast<float>(whole / (static_cast<double>(count) * c.images));
}

// Sums of the taps, less `centre`, tap by tap.
template <int64_t TAPS, typename T>
void tap_sums(const Channel<T>& c, float centre, Sums& sums) {
  thread_local Buffer buffer;
  const int64_t k = TAPS ? TAPS : c.geometry.taps();
  float* centred = buffer.room(k * kRow);
  int64_t chunks = 0;
  sweep(c, k, nullptr,
        [&](int64_t, int64_t, int64_t count, const float* taps) {
          for (int64_t t = 0; t < k; ++t) {
            Vec total = {};
            for (int64_t q = 0; q < count; q += kLanes) {
              const Vec d =
                  first_lanes(load(taps + t * kRow + q) - centre, count - q);
              store(centred + t * kRow + q, d);
              total += d;
            }
            sums.add(t, total);
          }
          add_products(k, count, centred, centred, true, sums.products);
          if (++chunks % 32 == 0) sums.flush();
        });
  sums.flush();
}

// One pass: centred by the mean of the pixels, which is near that of every
// tap, so that the products need no second pass and nothing cancels.
template <typename T>
void moments_any(const Moments<T>& m) {
  const Channel<T>& c = m.channel;
  const Geometry& g = c.geometry;
  const int64_t k = g.taps();
  double *mean = m.mean, *covariance = m.covariance;
  for (int64_t t = 0; t < k; ++t) mean[t] = 0;
  for (int64_t t = 0; t < k * k; ++t) covariance[t] = 0;
  const float centre = centre_of(m);
  Sums sums(k, mean, covariance);
  if (g.has_lags())
    lag_sums(c, centre, sums);
  else if (k == 9)
    tap_sums<9>(c, centre, sums);
  else
    tap_sums<0>(c, centre, sums);
  const double scale = 1.0 / (static_cast<double>(c.images) * g.pixels());
  for (int64_t t = 0; t < k; ++t) mean[t] *= scale;
  for (int64_t t = 0; t < k; ++t)
    for (int64_t j = 0; j <= t; ++j)
      covariance[t * k + j] = covariance[j * k + t] =
          covariance[t * k + j] * scale - mean[t] * mean[j];
  for (int64_t t = 0; t < k; ++t) mean[t] += centre;
}

template <int64_t TAPS, typename T>
void moments_backward_of(const Moments<T>& m) {
  thread_local Buffer tap_buffer;
  const int64_t k = TAPS ? TAPS : m.channel.geometry.taps();
  float* grad_taps = tap_buffer.room(k * kRow);
  sweep(m.channel, k, grad_taps,
        [&](int64_t, int64_t, int64_t size, const float* taps) {
          for (int64_t q = 0; q < size; q += kLanes) {
            Vec u[most<TAPS>()];
            UNROLL for (int64_t j = 0; j < k; ++j)
              u[j] = load(taps + j * kRow + q);
            UNROLL for (int64_t t = 0; t < k; ++t) {
              Vec du = splat(m.offset[t]);
              UNROLL for (int64_t j = 0; j < k; ++j)
                du += u[j] * m.slope[t * k + j];
              store(grad_taps + t * kRow + q, du);
            }
          }
        });
}

template <typename T>
void moments_backward_any(const Moments<T>& m) {
  const Geometry& g = m.channel.geometry;
  if (g.has_lags()) return moments_backward_by_lag(m);
  g.taps() == 9 ? moments_backward_of<9>(m) : moments_backward_of<0>(m);
}

}  // namespace

void moments(const Moments<float>& f) { moments_any(f); }
void moments(const Moments<uint16_t>& f) { moments_any(f); }
void moments_backward(const Moments<float>& f) { moments_backward_any(f); }
void moments_backward(const Moments<uint16_t>& f) { moments_backward_any(f); }

}  // namespace MMRFA_ISA
}  // namespace mmrfa
