// Weighted features: everything but the last convolution.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vector>

#include "blocks.h"
#include "operators.h"

namespace mmrfa {

struct Weighted : Learned {
  // Gates of the features, undefined where there is none, and their gradients.
  // Of that by position every thread has one of its own.
  Tensor channel, position, row, column;
  Tensor grad_channel, grad_position, grad_row, grad_column;

  Weighted(const Tensor& x, const OptionalTensor& gains,
           const Tensor& feature_weight, const Tensor& feature_shift,
           const Geometry& g, bool unfold)
      : Learned(x, feature_weight, feature_shift, g) {
    gain = checked("gain", gains, {x.size(1), g.taps()});
    TORCH_CHECK(!(unfold && gain.defined()),
                "mmrfa: expected no gain with unfold, got one");
    if (unfold) form = Form::kUnfold;
    if (gain.defined()) form = Form::kAttention;
  }

  void add_gates(const OptionalTensor& channels,
                 const OptionalTensor& positions, const OptionalTensor& rows,
                 const OptionalTensor& columns) {
    const Geometry& g = geometry;
    const int64_t n = x.size(0), c = x.size(1);
    channel = checked("channel_gate", channels, {n, c});
    position = checked("position_gate", positions,
                       {n, g.taps(), g.out_height, g.out_width});
    row = checked("row_gate", rows, {n, c, g.kh, g.out_height});
    column = checked("column_gate", columns, {n, c, g.kw, g.out_width});
    TORCH_CHECK(channel.defined() == position.defined() &&
                    row.defined() == column.defined() &&
                    !(channel.defined() && row.defined()),
                "mmrfa: expected channel_gate and position_gate, or row_gate "
                "and column_gate, or none");
    TORCH_CHECK(!gated() || form == Form::kFeatures,
                "mmrfa: expected no gates with gain or unfold, got some");
  }

  void want_gradients() {
    Learned::want_gradients();
    if (channel.defined()) {
      grad_channel = at::zeros_like(channel);
      std::vector<int64_t> sizes = position.sizes().vec();
      sizes.insert(sizes.begin(), at::get_num_threads());
      grad_position = at::zeros(sizes, position.options());
    }
    if (row.defined()) {
      grad_row = at::zeros_like(row);
      grad_column = at::zeros_like(column);
    }
  }

  bool gated() const { return channel.defined() || row.defined(); }
};

// Applies the gates to y, the K rows of channel c of a group.
inline void run_gates(const Weighted& p, const Group& group, int64_t c,
                      float* y, float* grad_y, const Layout& layout) {
  const Geometry& g = p.geometry;
  for (int64_t n = 0; n < group.images; ++n) {
    const int64_t image = group.image + n, plane = image * p.x.size(1) + c;
    Gates f{};
    f.geometry = g;
    f.first = group.row;
    f.rows = group.rows;
    f.image = n;
    f.layout = layout;
    f.y = y;
    f.grad_y = grad_y;
    if (p.channel.defined()) {
      const int64_t at =
          image * g.taps() * g.pixels() + group.row * g.out_width;
      const int64_t thread = at::get_thread_num() * p.position.numel();
      f.channel = at_offset(p.channel, plane);
      f.position = at_offset(p.position, at);
      f.position_pitch = g.pixels();
      f.grad_channel = at_offset(p.grad_channel, plane);
      f.grad_position = at_offset(p.grad_position, thread + at);
    } else {
      const int64_t rows = plane * g.kh * g.out_height;
      const int64_t columns = plane * g.kw * g.out_width;
      f.row = at_offset(p.row, rows);
      f.column = at_offset(p.column, columns);
      f.grad_row = at_offset(p.grad_row, rows);
      f.grad_column = at_offset(p.grad_column, columns);
    }
    gate(f);
  }
}

// Makes channel i of a block. In backward y holds the gradients of the features
// before; the features go to `values`, which is y where there are no gates.
inline void run_features(const Weighted& p, const Block& block, int64_t i,
                         float* y, float* values, bool backward) {
  by_type(p.x, [&](auto element) {
    const int64_t c = block.channel + i;
    const int64_t at = i * block.taps * panel_width();
    auto f = features_of<decltype(element)>(p, block.group, c);
    f.layout = block.layout();
    f.y = values + at;
    if (backward && !p.gated()) f.grad_y = y + at;
    features(f);
    if (!p.gated()) return;
    // The gates need the features before their gradient is known.
    float* gradient = backward ? y + at : nullptr;
    run_gates(p, block.group, c, values + at, gradient, f.layout);
    if (!backward) return;
    f.y = nullptr;
    f.grad_y = gradient;
    features(f);
  });
}

}  // namespace mmrfa
