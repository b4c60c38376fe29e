// Cutting the work of a convolution into blocks small enough for a cache.
#pragma once

#include <algorithm>
#include <vector>

#include "tensors.h"

namespace mmrfa {

// Output pixels and features of a block: a panel of so many features fits into
// the nearest cache, all of them into the next one. With fewer pixels products
// wait for the weight.
constexpr int64_t kPixels = 288, kFewestPixels = 96;
constexpr int64_t kFeatures = 288;

// Groups of the pixels of a block, of even size, their number a multiple of
// `threads` where that is possible.
inline std::vector<Group> groups_of(int64_t images, const Geometry& g,
                                    int64_t threads) {
  std::vector<Group> groups;
  if (images == 0) return groups;
  const int64_t pixels = std::clamp(divide_up(images * g.pixels(), threads),
                                    kFewestPixels, kPixels);
  int64_t together = std::max<int64_t>(1, pixels / g.pixels());
  const int64_t parts = divide_up(images, together);
  together = divide_up(
      images, std::min(images, divide_up(parts, threads) * threads));
  int64_t rows = g.out_height;
  if (together == 1) {
    const int64_t fit = std::max<int64_t>(1, pixels / g.out_width);
    rows = divide_up(g.out_height, divide_up(g.out_height, fit));
  }
  for (int64_t n = 0; n < images; n += together)
    for (int64_t row = 0; row < g.out_height; row += rows)
      groups.push_back({n, std::min(together, images - n), row,
                        std::min(rows, g.out_height - row)});
  return groups;
}

// Channels of a block, of which all threads have some.
inline int64_t channels_at_once(const Geometry& g, int64_t channels,
                                int64_t threads) {
  return std::max<int64_t>(
      1, std::min(kFeatures / g.taps(), divide_up(channels, threads)));
}

// The pixels of a group as columns: image after image, each of them from a
// whole vector on.
struct Columns {
  int64_t step, vectors;          // from image to image; of all of them
  std::vector<int64_t> at, size;  // of every vector, in (N, channels, Ho, Wo)

  Columns(const Group& group, const Geometry& g, int64_t channels)
      : step(step_of(group, g)), vectors(group.images * step / lanes()) {
    const int64_t pixels = group.rows * g.out_width;
    for (int64_t n = 0; n < group.images; ++n)
      for (int64_t pixel = 0; pixel < pixels; pixel += lanes()) {
        at.push_back(n * channels * g.pixels() + pixel);
        size.push_back(std::min(lanes(), pixels - pixel));
      }
  }

  int64_t count() const { return vectors * lanes(); }
  static int64_t step_of(const Group& group, const Geometry& g) {
    return round_up(group.rows * g.out_width, lanes());
  }
  // Of the largest of some groups, in whole panels.
  static int64_t most(const std::vector<Group>& work, const Geometry& g) {
    int64_t count = 0;
    for (const Group& group : work)
      count = std::max(count, group.images * step_of(group, g));
    return round_up(count, panel_width());
  }
};

// Features of some channels, all of one part (group) of the last convolution,
// over the pixels of a group, in panels.
struct Block {
  const Geometry& geometry;
  const Group& group;
  const Columns& columns;
  int64_t part, first, channels;  // `first` of the channels of the part, and
  int64_t channel;                // of all of them
  int64_t taps = geometry.taps();

  int64_t depth() const { return channels * taps; }
  int64_t panel() const { return depth() * panel_width(); }
  Layout layout() const { return {panel_width(), columns.step, panel()}; }
};

}  // namespace mmrfa
