// Moments of 3x3 windows of stride 1, by lag.
//
// Taps that lie equally far apart meet the same pairs of pixels, but for those
// near the border that only some taps see: 13 products a pixel instead of 45,
// and 25 in the gradient instead of 81.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

constexpr int64_t kSide = 3, kSpan = 2 * kSide - 1, kLags = kSpan * kSpan;
constexpr int64_t kTaps = kSide * kSide;
constexpr int64_t kTogether = 8;         // images at a time, at most
constexpr int64_t kPlanes = 2 * kPlane;  // floats of all their planes

// Which taps see a row or a column of the padded image: tap t that of window
// w where it is w + t * dilation. The same for all channels.
struct Sight {
  Geometry g = {};
  int64_t height, width, pitch;  // of the padded image; of `columns`
  int32_t* rows;     // bit t is set where tap t sees the row
  int32_t* columns;  // kSide masks, -1 where tap t sees the column
  int32_t* set;      // vectors of image columns that are seen alike share one
  int64_t sets;
  Buffer row_buffer, column_buffer, set_buffer;

  static int32_t* integers(Buffer& buffer, int64_t size) {
    return reinterpret_cast<int32_t*>(buffer.zeros(size));
  }
  void shape(const Geometry& geometry) {
    if (std::memcmp(&g, &geometry, sizeof g) == 0) return;
    g = geometry;
    height = g.out_height + (kSide - 1) * g.dh;
    width = g.out_width + (kSide - 1) * g.dw;
    pitch = width + kLanes;
    rows = integers(row_buffer, height);
    columns = integers(column_buffer, kSide * pitch);
    set = integers(set_buffer, g.width);
    for (int64_t t = 0; t < kSide; ++t) {
      for (int64_t i = 0; i < g.out_height; ++i) rows[t * g.dh + i] |= 1 << t;
      for (int64_t i = 0; i < g.out_width; ++i)
        columns[t * pitch + t * g.dw + i] = -1;
    }
    sets = 0;
    for (int64_t q = 0; q < g.width; q += kLanes) {
      bool more = q > 0;
      for (int64_t t = 0; t < kSide && more; ++t) {
        const int32_t* own = columns + t * pitch + g.pw + q;
        more = std::memcmp(own, own - kLanes, kLanes * sizeof *own) == 0;
      }
      set[q / kLanes] = static_cast<int32_t>(more ? sets - 1 : sets++);
    }
  }
  // Below `bottom`, the first row after `row` that other taps see.
  int64_t alike_until(int64_t row, int64_t bottom) const {
    int64_t end = row + 1;
    while (end < bottom && rows[end] == rows[row]) ++end;
    return end;
  }
  INLINE IntVec sees(int64_t tap, int64_t column) const {
    return *reinterpret_cast<const IntVec*>(columns + tap * pitch + column);
  }
};

// each(first image, images, first output row, output rows), so that all their
// planes lie near at hand.
template <typename F>
INLINE void in_groups(const Geometry& g, int64_t images, F each) {
  const int64_t fit = Plane::fitting(g);
  const int64_t rows = g.out_height < fit ? g.out_height : fit;
  const int64_t lines = rows + (g.kh - 1) * g.dh;
  int64_t together = kPlanes / (lines * Plane::row_pitch(g));
  together = together < 1 ? 1 : together < kTogether ? together : kTogether;
  for (int64_t n = 0; n < images; n += together)
    for (int64_t top = 0; top < g.out_height; top += rows) {
      const int64_t below = g.out_height - top;
      each(n, images - n < together ? images - n : together, top,
           below < rows ? below : rows);
    }
}

// Over some rows of a vector of columns: lag[d][2 + a] is the sum of every
// pixel times that d rows down and a columns to the right, by the column of the
// left one.
template <int64_t DOWN>
INLINE void add_lags(const Plane& plane, const float* here, int64_t rows,
                     Vec& total, Vec (*lag)[kSpan]) {
  const int64_t down = plane.g.dh * plane.pitch, along = plane.g.dw;
  for (int64_t r = 0; r < rows; ++r, here += plane.pitch) {
    const Vec pixel = load(here);
    total += pixel;
    UNROLL for (int64_t d = 0; d < DOWN; ++d) {
      const float* there = here + d * down;
      UNROLL for (int64_t a = 0; a < kSide; ++a)
        lag[d][kSide - 1 + a] += pixel * load(there + a * along);
      if (d == 0) continue;
      const Vec below = load(there);
      UNROLL for (int64_t a = 1; a < kSide; ++a)
        lag[d][kSide - 1 - a] += below * load(here + a * along);
    }
  }
}

// The sums of some rows that the same taps see, by the tap in which the left
// pixel of a pair lies.
struct LagSums {
  Vec total[kSide], lag[kSide][kSpan][kSide];

  template <int64_t DOWN>
  INLINE void add(const Plane* planes, int64_t images, int64_t row,
                  int64_t rows, const Sight& sight) {
    for (int64_t q = 0; q < sight.width; q += kLanes) {
      Vec sum = {}, products[DOWN][kSpan] = {};
      for (int64_t n = 0; n < images; ++n)
        add_lags<DOWN>(planes[n], planes[n].data + row * planes[n].pitch + q,
                       rows, sum, products);
      UNROLL for (int64_t t = 0; t < kSide; ++t) {
        const IntVec seen = sight.sees(t, q);
        total[t] += (Vec)((IntVec)sum & seen);
        UNROLL for (int64_t d = 0; d < DOWN; ++d)
          UNROLL for (int64_t a = 0; a < kSpan; ++a)
            lag[d][a][t] += (Vec)((IntVec)products[d][a] & seen);
      }
    }
  }

  void give(int taps, Sums& sums) const {
    for (int64_t row = 0; row < kSide; ++row) {
      if ((taps >> row & 1) == 0) continue;
      for (int64_t t = 0; t < kSide; ++t)
        sums.add(row * kSide + t, total[t]);
      for (int64_t d = 0; row + d < kSide; ++d)
        for (int64_t a = d == 0 ? 0 : 1 - kSide; a < kSide; ++a) {
          const int64_t away = a < 0 ? -a : a;
          for (int64_t t = 0; t + away < kSide; ++t) {
            const int64_t upper = row * kSide + (a < 0 ? t + away : t);
            const int64_t lower = (row + d) * kSide + (a < 0 ? t : t + away);
            sums.add(lower, upper, lag[d][kSide - 1 + a][t]);
          }
        }
    }
  }
};

// Sums of the taps, less `centre`, by lag.
template <typename T>
void lag_sums(const Channel<T>& c, float centre, Sums& sums) {
  thread_local Plane planes[kTogether];
  thread_local Sight sight;
  const Geometry& g = c.geometry;
  sight.shape(g);
  in_groups(g, c.images, [&](int64_t first, int64_t images, int64_t top,
                             int64_t out_rows) {
    for (int64_t n = 0; n < images; ++n) {
      planes[n].shape(g, top, out_rows);
      planes[n].fill(c.x + (first + n) * c.step);
      for (int64_t i = 0; i < planes[n].rows * planes[n].pitch; ++i)
        planes[n].data[i] -= centre;
    }
    const bool last = top + out_rows == g.out_height;
    const int64_t bottom = last ? sight.height : top + out_rows;
    for (int64_t row = top, end; row < bottom; row = end) {
      end = sight.alike_until(row, bottom);
      const int32_t taps = sight.rows[row];
      LagSums some = {};
      auto add = [&](auto down) INLINE_LAMBDA {
        some.template add<decltype(down)::value>(planes, images, row - top,
                                                 end - row, sight);
      };
      // Rows further down than the highest tap allows need not exist.
      if (taps & 1)
        add(std::integral_constant<int64_t, 3>());
      else if (taps & 2)
        add(std::integral_constant<int64_t, 2>());
      else
        add(std::integral_constant<int64_t, 1>());
      some.give(taps, sums);
    }
    sums.flush();
  });
}

constexpr int64_t kSet = (kLags + 1) * kLanes;

// For a vector of columns of a row that the taps `rows` see: what the pixel at
// every lag counts in their gradient, and behind that what no pixel does.
template <typename T>
void lag_slopes(const Moments<T>& m, const Sight& sight, int rows, int64_t q,
                float* slopes) {
  // By the columns of both taps.
  float pairs[kSpan][kSide][kSide] = {}, offsets[kSide] = {};
  for (int64_t row = 0; row < kSide; ++row) {
    if ((rows >> row & 1) == 0) continue;
    for (int64_t column = 0; column < kSide; ++column) {
      const int64_t t = row * kSide + column;
      offsets[column] += m.offset[t];
      for (int64_t i = 0; i < kSide; ++i)
        for (int64_t j = 0; j < kSide; ++j)
          pairs[kSide - 1 + i - row][column][j] +=
              m.slope[t * kTaps + i * kSide + j];
    }
  }
  Vec counts[kLags + 1] = {};
  UNROLL for (int64_t column = 0; column < kSide; ++column) {
    const IntVec seen = sight.sees(column, sight.g.pw + q);
    const auto where = [&](float value) INLINE_LAMBDA {
      return (Vec)((IntVec)splat(value) & seen);
    };
    counts[kLags] += where(offsets[column]);
    UNROLL for (int64_t d = 0; d < kSpan; ++d)
      UNROLL for (int64_t j = 0; j < kSide; ++j)
        counts[d * kSpan + kSide - 1 + j - column] +=
            where(pairs[d][column][j]);
  }
  for (int64_t l = 0; l <= kLags; ++l) store(slopes + l * kLanes, counts[l]);
}

// The gradient of some rows, `down` and `along` from lag to lag. Rows share
// the loads of the slopes, of which `sight` knows the set for every vector.
template <int64_t ROWS>
INLINE void lag_gradient(const float* slopes, const Sight& sight,
                         const float* x, int64_t pitch, float* grad_x) {
  const int64_t width = sight.g.width, along = sight.g.dw;
  const int64_t down = sight.g.dh * pitch;
  for (int64_t q = 0; q < width; q += kLanes) {
    const float* own = slopes + sight.set[q / kLanes] * kSet;
    Vec total[ROWS];
    UNROLL for (int64_t r = 0; r < ROWS; ++r)
      total[r] = load(own + kLags * kLanes);
    UNROLL for (int64_t d = 0; d < kSpan; ++d)
      UNROLL for (int64_t a = 0; a < kSpan; ++a) {
        const Vec slope = load(own + (d * kSpan + a) * kLanes);
        const float* there = x + q + d * down + a * along;
        UNROLL for (int64_t r = 0; r < ROWS; ++r)
          total[r] += slope * load(there + r * pitch);
      }
    UNROLL for (int64_t r = 0; r < ROWS; ++r)
      store(grad_x + r * width + q, total[r], width - q);
  }
}

template <typename T>
void moments_backward_by_lag(const Moments<T>& m) {
  constexpr int64_t kRows = 4;
  thread_local Plane planes[kTogether];
  thread_local Sight sight;
  thread_local Buffer buffer;
  const Channel<T>& c = m.channel;
  const Geometry& g = c.geometry;
  Geometry reach = g;  // its taps are the lags
  reach.kh = reach.kw = kSpan;
  reach.ph = (kSide - 1) * g.dh;
  reach.pw = (kSide - 1) * g.dw;
  reach.out_height = g.height;
  reach.out_width = g.width;
  sight.shape(g);
  float* slopes = buffer.room((1 << kSide) * sight.sets * kSet);
  int known = 0;  // bit r is set where those of the rows r are there
  in_groups(reach, c.images, [&](int64_t first, int64_t images, int64_t top,
                                 int64_t rows) {
    for (int64_t n = 0; n < images; ++n) {
      planes[n].shape(reach, top, rows);
      planes[n].fill(c.x + (first + n) * c.step);
    }
    for (int64_t row = top, end; row < top + rows; row = end) {
      end = sight.alike_until(g.ph + row, g.ph + top + rows) - g.ph;
      const int32_t taps = sight.rows[g.ph + row];
      float* own = slopes + taps * sight.sets * kSet;
      if ((known >> taps & 1) == 0)
        for (int64_t v = 0, set = -1; v * kLanes < g.width; ++v)
          if (sight.set[v] != set) {
            set = sight.set[v];
            lag_slopes(m, sight, taps, v * kLanes, own + set * kSet);
          }
      known |= 1 << taps;
      for (int64_t n = 0; n < images; ++n) {
        const int64_t pitch = planes[n].pitch;
        const float* x = planes[n].data + (row - top) * pitch;
        float* grad_x = c.grad_x + (first + n) * c.step + row * g.width;
        int64_t r = row;
        for (; r + kRows <= end; r += kRows) {
          lag_gradient<kRows>(own, sight, x, pitch, grad_x);
          x += kRows * pitch;
          grad_x += kRows * g.width;
        }
        for (; r < end; ++r) {
          lag_gradient<1>(own, sight, x, pitch, grad_x);
          x += pitch;
          grad_x += g.width;
        }
      }
    }
  });
}

}  // namespace

}  // namespace MMRFA_ISA
}  // namespace mmrfa
