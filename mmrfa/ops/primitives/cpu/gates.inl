// Gates on the features of one channel.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

// One vector of gated features, n lanes of it; returns the gate's gradient.
template <typename T>
INLINE Vec gate_lanes(T* y, T* grad_y, Vec factor, int64_t n) {
  const Vec value = load(y, n);
  store(y, value * factor, n);
  if (grad_y == nullptr) return Vec{};
  const Vec grad = load(grad_y, n);
  store(grad_y, grad * factor, n);
  return value * grad;
}

// Gates of rows and columns, forward: products of whole planes, since rows are
// seldom whole vectors, and a store of fewer lanes than all is slow.
template <typename T>
void gate_lines(const Gates<T>& f) {
  thread_local Buffer buffer;
  const Geometry& g = f.geometry;
  const int64_t width = g.out_width, pixels = f.rows * width;
  const int64_t pitch = pixels + kLanes;
  float* rows = buffer.room((g.kh + g.kw) * pitch);
  float* columns = rows + g.kh * pitch;
  // What a row writes too much the next one mends.
  for (int64_t r = 0; r < f.rows; ++r)
    for (int64_t q = 0; q < width; q += kLanes) {
      const int64_t at = r * width + q;
      for (int64_t i = 0; i < g.kh; ++i)
        store(rows + i * pitch + at,
              splat(f.row[i * g.out_height + f.first + r]));
      for (int64_t j = 0; j < g.kw; ++j)
        store(columns + j * pitch + at,
              load(f.column + j * width + q, width - q));
    }
  for (int64_t t = 0; t < g.taps(); ++t) {
    T* y = f.y + t * f.pitch;
    const float* row = rows + t / g.kw * pitch;
    const float* column = columns + t % g.kw * pitch;
    for (int64_t q = 0; q < pixels; q += kLanes) {
      const Vec factor = load(column + q) * load(row + q);
      store(y + q, load(y + q, pixels - q) * factor, pixels - q);
    }
  }
}

template <typename T>
void gate_any(const Gates<T>& f) {
  if (f.channel == nullptr && f.grad_y == nullptr) return gate_lines(f);
  const Geometry& g = f.geometry;
  const int64_t taps = g.taps(), pixels = f.rows * g.out_width;
  Vec channel_total = {};
  for (int64_t t = 0; t < taps; ++t) {
    T* y = f.y + t * f.pitch;
    T* grad_y = f.grad_y == nullptr ? nullptr : f.grad_y + t * f.pitch;
    if (f.channel != nullptr) {
      const float* position = f.position + t * f.position_pitch;
      for (int64_t q = 0; q < pixels; q += kLanes) {
        const int64_t n = pixels - q;
        const Vec s = load(position + q, n);
        const Vec grad = gate_lanes(y + q, grad_y ? grad_y + q : nullptr,
                                    s * *f.channel, n);
        if (grad_y == nullptr) continue;
        channel_total += grad * s;
        float* to = f.grad_position + t * f.position_pitch + q;
        store(to, load(to, n) + grad * *f.channel, n);
      }
      continue;
    }
    const int64_t i = t / g.kw, j = t % g.kw;
    for (int64_t r = 0; r < f.rows; ++r) {
      const int64_t line = i * g.out_height + f.first + r;
      const float* columns = f.column + j * g.out_width;
      Vec row_total = {};
      for (int64_t q = 0; q < g.out_width; q += kLanes) {
        const int64_t n = g.out_width - q, at = r * g.out_width + q;
        const Vec column = load(columns + q, n);
        const Vec grad =
            gate_lanes(y + at, grad_y + at, column * f.row[line], n);
        row_total += grad * column;
        float* to = f.grad_column + j * g.out_width + q;
        store(to, load(to, n) + grad * f.row[line], n);
      }
      f.grad_row[line] += sum(row_total);
    }
  }
  if (f.channel != nullptr && f.grad_y != nullptr)
    *f.grad_channel += sum(channel_total);
}

}  // namespace

void gate(const Gates<float>& f) { gate_any(f); }
void gate(const Gates<uint16_t>& f) { gate_any(f); }

}  // namespace MMRFA_ISA
}  // namespace mmrfa
