// Products with matrices whose columns lie in panels.
//
// A tile of sums stays in registers, some rows by the vectors of a panel, and
// walks down the depth: a panel in the nearest cache, the left in the next one.

namespace mmrfa {
namespace MMRFA_ISA {
namespace {

constexpr int64_t kPanel = kVectors * kLanes;
// Rows of a tile: with kVectors as many sums as there are registers for. With a
// single vector twice as many, to keep the arithmetic busy.
constexpr int64_t kTile = kLanes == 16 ? 8 : 4;

// Where a column begins in a layout, of panels only a whole vector's first.
INLINE int64_t offset(const Layout& layout, int64_t column) {
  return layout.panel == 0
             ? column
             : column / kPanel * layout.panel + column % kPanel;
}

template <int64_t ROWS, int64_t V>
void tile(const Product& p, int64_t row, int64_t vector) {
  float* out = p.out + row * (p.turned ? 1 : p.pitch);
  const int64_t *at = p.at + vector, *size = p.size + vector;
  Vec total[ROWS][V];
  UNROLL for (int64_t r = 0; r < ROWS; ++r)
    UNROLL for (int64_t v = 0; v < V; ++v)
      total[r][v] =
          p.add && !p.turned ? load(out + r * p.pitch + at[v], size[v])
          : p.start          ? splat(p.start[row + r])
                             : Vec{};
  const float* left = p.left + row * p.row_step;
  const float* right = p.right + vector / kVectors * p.panel;
  for (int64_t rest = p.depth; rest > 0; rest -= p.run) {
    const int64_t run = rest < p.run ? rest : p.run;
    const float* here = left;
    for (int64_t k = 0; k < run; ++k, here += p.step, right += kPanel) {
      Vec u[V];
      UNROLL for (int64_t v = 0; v < V; ++v) u[v] = load(right + v * kLanes);
      UNROLL for (int64_t r = 0; r < ROWS; ++r) {
        const float w = here[r * p.row_step];
        UNROLL for (int64_t v = 0; v < V; ++v) total[r][v] += u[v] * w;
      }
    }
    left += p.run_step;
  }
  if (!p.turned) {
    UNROLL for (int64_t r = 0; r < ROWS; ++r)
      UNROLL for (int64_t v = 0; v < V; ++v)
        store(out + r * p.pitch + at[v], total[r][v], size[v]);
    return;
  }
  for (int64_t v = 0; v < V; ++v)
    for (int64_t i = 0; i < size[v]; ++i) {
      float* to = out + (at[v] + i) * p.pitch;
      UNROLL for (int64_t r = 0; r < ROWS; ++r)
        to[r] = total[r][v][i] + (p.add ? to[r] : 0.0f);
    }
}

template <int64_t ROWS, int64_t V>
void tiles(const Product& p, int64_t row, int64_t vector) {
  for (; row + ROWS <= p.rows; row += ROWS) tile<ROWS, V>(p, row, vector);
  if constexpr (ROWS > 1) tiles<ROWS / 2, V>(p, row, vector);
}

}  // namespace

void product(const Product& p) {
  int64_t vector = 0;
  for (; vector + kVectors <= p.vectors; vector += kVectors)
    tiles<kTile, kVectors>(p, 0, vector);
  if (p.vectors - vector == 2) tiles<kTile, 2>(p, 0, vector);
  if (p.vectors - vector == 1) tiles<2 * kTile, 1>(p, 0, vector);
}

void to_panels(const Panels& p) {
  const int64_t columns = p.vectors * kLanes;
  for (int64_t row = 0; row < p.rows; ++row)
    for (int64_t v = 0; v < p.vectors; ++v) {
      const Vec value = load(p.from + row * p.pitch + p.at[v], p.size[v]);
      store(p.panels + (v / kVectors * p.rows + row) * kPanel +
                v % kVectors * kLanes,
            value);
      float* to = p.turned + row / kPanel * kPanel * columns + row % kPanel +
                  v * kLanes * kPanel;
      for (int64_t i = 0; i < kLanes; ++i) to[i * kPanel] = value[i];
    }
}

}  // namespace MMRFA_ISA
}  // namespace mmrfa
