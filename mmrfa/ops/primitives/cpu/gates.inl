// Gates on the features of one channel.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

// One vector of gated features; returns the gate's gradient.
INLINE Vec gate_lanes(float* y, float* grad_y, Vec factor) {
  const Vec value = load(y);
  store(y, value * factor);
  if (grad_y == nullptr) return Vec{};
  const Vec grad = load(grad_y);
  store(grad_y, grad * factor);
  return value * grad;
}

// Gates of rows and columns, as planes: rows are seldom whole vectors, and
// loads and stores of fewer lanes than all are slow.
void gate_lines(const Gates& f) {
  thread_local Buffer buffer;
  const Geometry& g = f.geometry;
  const int64_t width = g.out_width, pixels = f.rows * width;
  const int64_t pitch = pixels + kLanes, all = (g.kh + g.kw) * pitch;
  float* rows = buffer.room(2 * all + width + kLanes);
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
  // Pixels behind the last one come into sums over columns, times zero.
  for (int64_t i = 0; i < g.kh + g.kw; ++i)
    store(rows + i * pitch + pixels, Vec{});
  float* grad_rows = rows + all;
  float* grad_columns = grad_rows + g.kh * pitch;
  if (f.grad_y != nullptr) std::memset(grad_rows, 0, all * sizeof(float));
  const int64_t begin = f.image * f.layout.step;
  for (int64_t t = 0; t < g.taps(); ++t) {
    const int64_t i = t / g.kw * pitch, j = t % g.kw * pitch;
    float* y = f.y + t * f.layout.pitch;
    float* grad_y =
        f.grad_y == nullptr ? nullptr : f.grad_y + t * f.layout.pitch;
    for (int64_t q = 0; q < pixels; q += kLanes) {
      const Vec row = load(rows + i + q), column = load(columns + j + q);
      const int64_t at = offset(f.layout, begin + q);
      const Vec grad =
          gate_lanes(y + at, grad_y ? grad_y + at : nullptr, row * column);
      if (grad_y == nullptr) continue;
      store(grad_rows + i + q, load(grad_rows + i + q) + grad * column);
      store(grad_columns + j + q, load(grad_columns + j + q) + grad * row);
    }
  }
  if (f.grad_y == nullptr) return;
  float* sums = rows + 2 * all;
  for (int64_t i = 0; i < g.kh; ++i)
    for (int64_t r = 0; r < f.rows; ++r) {
      const float* from = grad_rows + i * pitch + r * width;
      Vec total = {};
      for (int64_t q = 0; q < width; q += kLanes)
        total += first_lanes(load(from + q), width - q);
      f.grad_row[i * g.out_height + f.first + r] += sum(total);
    }
  for (int64_t j = 0; j < g.kw; ++j) {
    std::memcpy(sums, f.grad_column + j * width, width * sizeof(float));
    for (int64_t r = 0; r < f.rows; ++r)
      for (int64_t q = 0; q < width; q += kLanes)
        store(sums + q, load(sums + q) +
                            load(grad_columns + j * pitch + r * width + q));
    std::memcpy(f.grad_column + j * width, sums, width * sizeof(float));
  }
}

// Gates of the channel and of positions.
void gate_positions(const Gates& f) {
  const Geometry& g = f.geometry;
  const int64_t pixels = f.rows * g.out_width;
  const int64_t begin = f.image * f.layout.step;
  Vec channel_total = {};
  for (int64_t t = 0; t < g.taps(); ++t) {
    float* y = f.y + t * f.layout.pitch;
    float* grad_y =
        f.grad_y == nullptr ? nullptr : f.grad_y + t * f.layout.pitch;
    const float* position = f.position + t * f.position_pitch;
    for (int64_t q = 0; q < pixels; q += kLanes) {
      const int64_t n = pixels - q, at = offset(f.layout, begin + q);
      const Vec s = load(position + q, n);
      const Vec grad =
          gate_lanes(y + at, grad_y ? grad_y + at : nullptr, s * *f.channel);
      if (grad_y == nullptr) continue;
      channel_total += grad * s;
      float* to = f.grad_position + t * f.position_pitch + q;
      store(to, load(to, n) + grad * *f.channel, n);
    }
  }
  if (f.grad_y != nullptr) *f.grad_channel += sum(channel_total);
}

}  // namespace

void gate(const Gates& f) {
  f.channel == nullptr ? gate_lines(f) : gate_positions(f);
}

}  // namespace MMRFA_ISA
}  // namespace mmrfa
