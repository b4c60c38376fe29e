// Features of one channel reduced, over the channels or over lines.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

void sum_lines(const LinePool& p) {
  // Sums over columns with slack: lanes behind a row belong to the next one,
  // and a store of fewer lanes than all is slow.
  thread_local Buffer buffer;
  const Geometry& g = p.geometry;
  const int64_t width = g.out_width, pitch = width + kLanes;
  float* sums = buffer.zeros(g.kw * pitch);
  const float* y = p.y;
  for (int64_t t = 0; t < g.taps(); ++t) {
    float* columns = sums + t % g.kw * pitch;
    float* lines = p.lines + t / g.kw * g.out_height;
    for (int64_t row = 0; row < g.out_height; ++row, y += width) {
      Vec total = {};
      for (int64_t q = 0; q < width; q += kLanes) {
        const Vec value = load(y + q);
        store(columns + q, load(columns + q) + value);
        total += first_lanes(value, width - q);
      }
      lines[row] += sum(total);
    }
  }
  for (int64_t j = 0; j < g.kw; ++j)
    std::memcpy(p.columns + j * width, sums + j * pitch,
                width * sizeof(float));
}

void spread_lines(const LinePool& p) {
  const Geometry& g = p.geometry;
  for (int64_t t = 0; t < g.taps(); ++t)
    for (int64_t row = 0; row < g.out_height; ++row) {
      const float line = p.lines[t / g.kw * g.out_height + row];
      const float* columns = p.columns + t % g.kw * g.out_width;
      float* y = p.y + (t * g.out_height + row) * g.out_width;
      for (int64_t q = 0; q < g.out_width; q += kLanes) {
        const int64_t n = g.out_width - q;
        store(y + q, load(columns + q, n) + line, n);
      }
    }
}

}  // namespace

void pool_channels(const ChannelPool& p) {
  for (int64_t t = 0; t < p.taps; ++t)
    for (int64_t q = 0; q < p.pixels; q += kLanes) {
      const int64_t n = p.pixels - q;
      float* maximum = p.maximum + t * p.pool_pitch + q;
      float* sum = p.sum + t * p.pool_pitch + q;
      // The bits of an int32 as those of a float: only moved, never computed.
      float* argument =
          reinterpret_cast<float*>(p.argument + t * p.pool_pitch + q);
      IntVec found = (IntVec)load(argument, n);
      Vec most = load(maximum, n), total = load(sum, n);
      for (int64_t c = 0; c < p.channels; ++c) {
        float* y = p.y + (c * p.taps + t) * p.pitch + q;
        const IntVec own = IntVec{} + static_cast<int32_t>(p.channel + c);
        if (p.backward) {
          store(y, total + (found == own ? most : Vec{}), n);
          continue;
        }
        const Vec value = load(y, n);
        const auto higher = (value > most) | (value != value);  // keeps NaN
        most = higher ? value : most;
        found = higher ? own : found;
        total += value;
      }
      if (p.backward) continue;
      store(maximum, most, n);
      store(argument, (Vec)found, n);
      store(sum, total, n);
    }
}

void pool_lines(const LinePool& p) {
  p.backward ? spread_lines(p) : sum_lines(p);
}

}  // namespace MMRFA_ISA
}  // namespace mmrfa
