// What the kernels read is checked here: they know addresses alone.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>

#include "kernels.h"

namespace mmrfa {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Types = std::initializer_list<at::ScalarType>;

inline std::string names_of(Types types) {
  std::string names;
  for (const at::ScalarType type : types)
    names += (names.empty() ? "" : " or ") + std::string(at::toString(type));
  return names;
}

inline void check_type(const char* name, const Tensor& t, Types types) {
  bool known = t.device().is_cpu() && t.layout() == at::kStrided;
  bool found = false;
  for (const at::ScalarType type : types)
    found = found || t.scalar_type() == type;
  TORCH_CHECK(known && found, "mmrfa: expected ", name, " to be a dense ",
              names_of(types), " tensor on the CPU, got ", t.layout(), " ",
              t.scalar_type(), " on ", t.device());
}

// Channels last where those of x are, as results of a convolution lie.
inline at::MemoryFormat format_of(const Tensor& x) {
  const bool last = x.is_contiguous(at::MemoryFormat::ChannelsLast);
  return last && !x.is_contiguous() ? at::MemoryFormat::ChannelsLast
                                    : at::MemoryFormat::Contiguous;
}

// Returns the tensor without gaps.
inline Tensor checked(const char* name, const Tensor& t, at::IntArrayRef sizes,
                      Types types) {
  check_type(name, t, types);
  TORCH_CHECK(t.sizes() == sizes, "mmrfa: expected ", name, " of shape ",
              sizes, ", got ", t.sizes());
  return t.contiguous();
}

inline Tensor checked(const char* name, const Tensor& t,
                      at::IntArrayRef sizes) {
  return checked(name, t, sizes, {at::kFloat});
}

// An absent tensor is an undefined one from here on.
inline Tensor checked(const char* name, const OptionalTensor& t,
                      at::IntArrayRef sizes) {
  return t.has_value() ? checked(name, *t, sizes) : Tensor();
}

inline Geometry checked_geometry(const Tensor& x, at::IntArrayRef kernel,
                                 at::IntArrayRef stride,
                                 at::IntArrayRef padding,
                                 at::IntArrayRef dilation) {
  check_type("x", x, {at::kFloat, at::kBFloat16});
  TORCH_CHECK(x.dim() == 4, "mmrfa: expected x of shape (N, C, H, W), got ",
              x.sizes());
  TORCH_CHECK(x.size(1) > 0, "mmrfa: expected x with a channel, got ",
              x.sizes());
  // So that no product below can overflow.
  constexpr int64_t kMost = 1 << 20, kLongest = int64_t{1} << 31;
  auto pair = [&](const char* name, at::IntArrayRef numbers, int64_t least) {
    bool fit = numbers.size() == 2;
    for (const int64_t number : numbers)
      fit = fit && least <= number && number <= kMost;
    TORCH_CHECK(fit, "mmrfa: expected ", name, " to be two numbers from ",
                least, " to ", kMost, ", got ", numbers);
  };
  pair("kernel", kernel, 1);
  pair("stride", stride, 1);
  pair("padding", padding, 0);
  pair("dilation", dilation, 1);
  TORCH_CHECK(x.size(2) < kLongest && x.size(3) < kLongest,
              "mmrfa: expected x with sides below ", kLongest, ", got ",
              x.sizes());
  Geometry g{x.size(2),   x.size(3),   0,           0,
             kernel[0],   kernel[1],   stride[0],   stride[1],
             padding[0],  padding[1],  dilation[0], dilation[1]};
  TORCH_CHECK(g.taps() <= kMostTaps, "mmrfa: expected at most ", kMostTaps,
              " taps, got ", g.taps());
  const int64_t rows = g.height + 2 * g.ph - g.dh * (g.kh - 1) - 1;
  const int64_t columns = g.width + 2 * g.pw - g.dw * (g.kw - 1) - 1;
  TORCH_CHECK(g.height > 0 && g.width > 0 && rows >= 0 && columns >= 0,
              "mmrfa: expected an input of at least the dilated kernel, got ",
              x.sizes());
  g.out_height = rows / g.sh + 1;
  g.out_width = columns / g.sw + 1;
  // What a thread copies of an image at a time, as kernels see it.
  constexpr int64_t kFloats = 1 << 28;
  const int64_t together = std::min<int64_t>(g.out_height, 4);
  const int64_t height = (together - 1) * g.sh + (g.kh - 1) * g.dh + 1;
  const int64_t width = (g.out_width + 15) * g.sw + (g.kw - 1) * g.dw;
  TORCH_CHECK(height <= kFloats / width,
              "mmrfa: expected a smaller window, got stride ", stride,
              " and dilation ", dilation);
  return g;
}

}  // namespace mmrfa
