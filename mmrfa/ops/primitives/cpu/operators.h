// The operators of this library; schemas, and what they mean, in the Python
// files of the same names beside this folder.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace mmrfa {

using at::IntArrayRef;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor rf_conv(const Tensor& x, const OptionalTensor& gain,
               const Tensor& feature_weight, const Tensor& feature_shift,
               const Tensor& weight, const OptionalTensor& bias,
               const OptionalTensor& channel_gate,
               const OptionalTensor& position_gate,
               const OptionalTensor& row_gate,
               const OptionalTensor& column_gate, IntArrayRef stride,
               IntArrayRef padding, IntArrayRef dilation, int64_t groups,
               bool unfold);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
           Tensor>
rf_conv_backward(const Tensor& grad, const Tensor& x,
                 const OptionalTensor& gain, const Tensor& feature_weight,
                 const Tensor& feature_shift, const Tensor& weight,
                 const OptionalTensor& channel_gate,
                 const OptionalTensor& position_gate,
                 const OptionalTensor& row_gate,
                 const OptionalTensor& column_gate, IntArrayRef stride,
                 IntArrayRef padding, IntArrayRef dilation, int64_t groups,
                 bool unfold);

std::tuple<Tensor, Tensor, Tensor> rf_channel_pool(
    const Tensor& x, const Tensor& weight, const Tensor& shift,
    IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation);

std::tuple<Tensor, Tensor, Tensor> rf_channel_pool_backward(
    const Tensor& maximum, const Tensor& mean, const Tensor& argument,
    const Tensor& x, const Tensor& weight, const Tensor& shift,
    IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation);

std::tuple<Tensor, Tensor> rf_line_pool(const Tensor& x, const Tensor& weight,
                                        const Tensor& shift,
                                        IntArrayRef kernel, IntArrayRef stride,
                                        IntArrayRef padding,
                                        IntArrayRef dilation);

std::tuple<Tensor, Tensor, Tensor> rf_line_pool_backward(
    const Tensor& lines, const Tensor& columns, const Tensor& x,
    const Tensor& weight, const Tensor& shift, IntArrayRef kernel,
    IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation);

std::tuple<Tensor, Tensor> rf_moments(const Tensor& x, IntArrayRef kernel,
                                      IntArrayRef stride, IntArrayRef padding,
                                      IntArrayRef dilation);

Tensor rf_moments_backward(const Tensor& mean, const Tensor& covariance,
                           const Tensor& x, const Tensor& batch_mean,
                           IntArrayRef kernel, IntArrayRef stride,
                           IntArrayRef padding, IntArrayRef dilation);

}  // namespace mmrfa
