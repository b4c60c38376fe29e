// The taps of output pixels, gathered.
//
// Some rows of one channel are copied into a zero-padded plane, columns sorted
// by their remainder modulo the horizontal stride ("phases"). There each tap
// of a row of output pixels is contiguous, for any stride and dilation. The
// taps of a chunk of output pixels are gathered from it, so that everything
// after that is dense arithmetic on K rows that stay in the first-level cache,
// whatever the width of the image.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

// A run of output pixels of one row, inside a chunk.
struct Piece {
  int64_t at;     // first pixel, from the chunk's first
  int64_t plane;  // where tap (0, 0) of that pixel lies in the plane
  int64_t size;
};

// The padded, phase-sorted copy of the input rows behind some output rows.
struct Plane {
  Geometry g;
  int64_t pitch, rows, top;
  Buffer buffer;
  float* data = nullptr;

  static int64_t row_pitch(const Geometry& g) {
    // A piece may be read and written in whole vectors without meeting the
    // next row.
    return g.out_width + (g.kw - 1) * g.dw / g.sw + kLanes - 1;
  }
  // How many output rows to work on at a time: of whole vectors together, since
  // panels take nothing else but at the end.
  static int64_t fitting(const Geometry& g) {
    const int64_t lines = kPlane / (g.sw * row_pitch(g));
    const int64_t fit = (lines - (g.kh - 1) * g.dh - 1) / g.sh + 1;
    const int64_t power = g.out_width & -g.out_width;  // of 2, that divides it
    const int64_t step = power < kLanes ? kLanes / power : 1;
    const int64_t least = step < 4 ? 4 : step;
    return fit < least ? least : fit / step * step;
  }

  void shape(const Geometry& geometry, int64_t first, int64_t out_rows) {
    g = geometry;
    pitch = row_pitch(g);
    rows = (out_rows - 1) * g.sh + (g.kh - 1) * g.dh + 1;
    top = first * g.sh - g.ph;
    // Behind the last line lags read on.
    data = buffer.zeros(g.sw * rows * pitch + (g.kw - 1) * g.dw + kLanes);
  }

  // As shape(), for rows that are filled anew: around them nothing is written,
  // so that zeros of the last time are zeros still.
  void shape_to_fill(const Geometry& geometry, int64_t first,
                     int64_t out_rows) {
    const int64_t below = (out_rows - 1) * geometry.sh + 1;
    if (data == nullptr || top != first * geometry.sh - geometry.ph ||
        rows != below + (geometry.kh - 1) * geometry.dh ||
        std::memcmp(&g, &geometry, sizeof g) != 0)
      shape(geometry, first, out_rows);
  }

  // Where the taps of the pixel at row 0, column 0 lie. Division is slow.
  void find_taps(int64_t* offset) const {
    for (int64_t i = 0; i < g.kh; ++i)
      for (int64_t j = 0; j < g.kw; ++j) {
        const int64_t row = i * g.dh, column = j * g.dw;
        *offset++ = g.sw == 1 ? row * pitch + column
                              : (column % g.sw * rows + row) * pitch +
                                    column / g.sw;
      }
  }

  // Cuts the next `size` pixels from (row, column) on into pieces, moves row
  // and column behind them and returns the number of pieces.
  int64_t cut(int64_t* row, int64_t* column, int64_t size,
              Piece* pieces) const {
    int64_t count = 0;
    for (int64_t at = 0; at < size; ++count) {
      const int64_t left = g.out_width - *column;
      const int64_t n = left < size - at ? left : size - at;
      pieces[count] = {at, *row * g.sh * pitch + *column, n};
      at += n;
      *column += n;
      if (n == left) {
        *column = 0;
        ++*row;
      }
    }
    return count;
  }

  // taps[t * kRow + pixel] of a chunk, zero past its end.
  INLINE void gather(const Piece* pieces, int64_t count, int64_t size,
                     int64_t k, const int64_t* offset, float* taps) const {
    for (int64_t p = 0; p < count; ++p) {
      // What a piece writes too much the next one mends.
      const float* from = data + pieces[p].plane;
      float* to = taps + pieces[p].at;
      for (int64_t i = 0; i < pieces[p].size; i += kLanes)
        UNROLL for (int64_t t = 0; t < k; ++t)
          store(to + t * kRow + i, load(from + offset[t] + i));
    }
    const int64_t last = size / kLanes * kLanes;
    if (last < size)
      for (int64_t t = 0; t < k; ++t) {
        float* end = taps + t * kRow + last;
        store(end, first_lanes(load(end), size - last));
      }
  }

  // The adjoint: adds taps[t * kRow + pixel] to where it came from. Tap by
  // tap, since a load from where a store is under way has to wait.
  INLINE void scatter(const Piece* pieces, int64_t count, int64_t k,
                      const int64_t* offset, const float* taps) const {
    for (int64_t t = 0; t < k; ++t)
      for (int64_t p = 0; p < count; ++p) {
        const float* from = taps + t * kRow + pieces[p].at;
        float* to = data + offset[t] + pieces[p].plane;
        const int64_t size = pieces[p].size;
        int64_t i = 0;
        for (; i + kLanes <= size; i += kLanes)
          store(to + i, load(to + i) + load(from + i));
        if (i < size)
          store(to + i, load(to + i) + first_lanes(load(from + i), size - i));
      }
  }

  // Pairs of plane and image elements: each(plane, image, length).
  template <typename F>
  INLINE void lines(F each) const {
    const int64_t columns = pitch - kLanes + 1;
    for (int64_t phase = 0; phase < g.sw; ++phase) {
      // Plane column c holds image column c * sw - shift.
      const int64_t shift = g.pw - phase, last = g.width - 1 + shift;
      const int64_t from = shift > 0 ? (shift + g.sw - 1) / g.sw : 0;
      int64_t to = last < 0 ? 0 : last / g.sw + 1;
      to = to > columns ? columns : to;
      if (from >= to) continue;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = top + r;
        if (row >= 0 && row < g.height)
          each((phase * rows + r) * pitch + from,
               row * g.width + from * g.sw - shift, to - from);
      }
    }
  }

  template <typename T>
  INLINE void fill(const T* x) {
    lines([&](int64_t here, int64_t there, int64_t n) {
      float* to = data + here;
      const T* from = x + there;
      if (g.sw == 1)
        for (int64_t i = 0; i < n; ++i) to[i] = number(from[i]);
      else
        for (int64_t i = 0; i < n; ++i) to[i] = number(from[i * g.sw]);
    });
  }
  // Asks for the same rows of the next channel, which follow soon. Behind the
  // last one nothing is read, and no address is refused.
  template <typename T>
  INLINE void fetch_next(const T* x) const {
    const int64_t from = top > 0 ? top : 0;
    const int64_t to = top + rows < g.height ? top + rows : g.height;
    const T* first = x + g.height * g.width + from * g.width;
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int64_t i = 0; i < (to - from) * g.width; i += kLine)
      __builtin_prefetch(first + i);
  }
  INLINE void add_to(float* x) const {
    lines([&](int64_t here, int64_t there, int64_t n) {
      const float* from = data + here;
      float* to = x + there;
      if (g.sw == 1)
        for (int64_t i = 0; i < n; ++i) to[i] += from[i];
      else
        for (int64_t i = 0; i < n; ++i) to[i * g.sw] += from[i];
    });
  }
};

// Gathers chunk after chunk: each(image, pixel in the rows asked for, size,
// taps). `grad_taps`, if there is one, is what each() left there for every
// chunk and goes to the gradient of the input.
template <typename T, typename F>
INLINE void sweep(const Channel<T>& c, int64_t k, float* grad_taps, F each) {
  thread_local Plane plane, grad_plane;
  thread_local Buffer buffer;
  const Geometry& g = c.geometry;
  float* taps = buffer.room(k * kRow);
  const int64_t fit = Plane::fitting(g);
  Piece pieces[kChunk];
  int64_t offset[kMostTaps];
  for (int64_t n = 0; n < c.images; ++n)
    for (int64_t top = 0; top < c.rows; top += fit) {
      const int64_t rows = c.rows - top < fit ? c.rows - top : fit;
      plane.shape_to_fill(g, c.first + top, rows);
      plane.fill(c.x + n * c.step);
      plane.fetch_next(c.x + n * c.step);
      if (grad_taps != nullptr) grad_plane.shape(g, c.first + top, rows);
      plane.find_taps(offset);
      const int64_t pixels = rows * g.out_width;
      int64_t row = 0, column = 0;
      for (int64_t begin = 0; begin < pixels; begin += kChunk) {
        const int64_t left = pixels - begin;
        const int64_t size = left < kChunk ? left : kChunk;
        const int64_t count = plane.cut(&row, &column, size, pieces);
        plane.gather(pieces, count, size, k, offset, taps);
        each(n, top * g.out_width + begin, size, taps);
        if (grad_taps != nullptr)
          grad_plane.scatter(pieces, count, k, offset, grad_taps);
      }
      if (grad_taps != nullptr) grad_plane.add_to(c.grad_x + n * c.step);
    }
}

}  // namespace

}  // namespace MMRFA_ISA
}  // namespace mmrfa
