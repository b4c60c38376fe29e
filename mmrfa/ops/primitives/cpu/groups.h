// Cutting the work into groups of output pixels small enough for a cache.
#pragma once

#include <algorithm>
#include <vector>

#include "tensors.h"

namespace mmrfa {

// Groups of about `bytes` at `pixel_bytes` each, but no fewer than
// `fewest` pixels; of even size, their number a multiple of `threads` where
// that is possible.
inline std::vector<Group> groups_of(int64_t images, const Geometry& g,
                                    int64_t pixel_bytes, int64_t bytes,
                                    int64_t fewest, int64_t threads) {
  std::vector<Group> groups;
  if (images == 0) return groups;
  const int64_t pixels = std::max(bytes / pixel_bytes, fewest);
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

// The part of a (N, channels, Ho, Wo) tensor that belongs to a group.
inline Tensor part_of(const Tensor& t, const Group& group) {
  return t.narrow(0, group.image, group.images)
      .narrow(2, group.row, group.rows);
}

// It as a (channels, pixels) matrix; of more than one image a copy.
inline Tensor pixels_of(const Tensor& t, const Group& group) {
  const Tensor part = part_of(t, group);
  return group.images == 1 ? part[0].flatten(1)
                           : part.transpose(0, 1).flatten(1);
}

}  // namespace mmrfa
