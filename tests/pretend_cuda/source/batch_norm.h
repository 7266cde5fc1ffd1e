// The operators of SyncBatchNorm that exist for CUDA alone, as torch/nn/modules/_functions.py uses
// them: statistics over all dimensions but the second, in float32 for half precision.
#pragma once
#include "dispatch.h"

namespace pretend {

// The order that every kernel keeps: waits, then its arguments' uses, then the results.
struct Kernel {
  std::string name;
  Device device;
  StreamKey stream;
  uint64_t position;

  Kernel(std::string op, const Tensor& input)
      : name(std::move(op)), device(input.device()), stream(current_stream(device.index())) {
    raise_deferred_fault();
    position = start_kernel(stream);
    count_launch(name);
  }
  Tensor read(const Tensor& tensor, bool is_write = false) const {
    if (!tensor.defined()) return tensor;
    TORCH_CHECK(
        tensor.device() == device,
        "Expected all tensors to be on the same device, but found at least two devices, ", device,
        " and ", tensor.device(), "! (", name, ")");
    note_use(tensor, stream, position, is_write, name);
    return as_cpu(tensor);
  }
  Tensor read(const std::optional<Tensor>& tensor, bool is_write = false) const {
    return tensor ? read(*tensor, is_write) : Tensor();
  }
  Tensor result(const Tensor& tensor) const {
    return to_device(tensor.defined() ? tensor.contiguous() : tensor, device, stream, position);
  }
};

inline ScalarType accumulate_type(const Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}
inline std::vector<int64_t> all_but_channels(const Tensor& tensor) {
  std::vector<int64_t> dims;
  for (int64_t i = 0; i < tensor.dim(); i++)
    if (i != 1) dims.push_back(i);
  return dims;
}
inline Tensor per_channel(const Tensor& values, const Tensor& like) {
  std::vector<int64_t> shape(like.dim(), 1);
  shape[1] = values.numel();
  return values.reshape(shape);
}

inline std::tuple<Tensor, Tensor> batch_norm_stats(const Tensor& input, double eps) {
  at::AutoDispatchBelowADInplaceOrView below;
  Kernel kernel("aten::batch_norm_stats", input);
  auto x = kernel.read(input).to(accumulate_type(input));
  auto dims = all_but_channels(x);
  auto mean = x.mean(dims);
  auto variance = (x - per_channel(mean, x)).square().mean(dims);
  return {kernel.result(mean), kernel.result((variance + eps).rsqrt())};
}

// Combines the statistics (ranks, channels) by the counts (ranks), and moves the running ones.
inline std::tuple<Tensor, Tensor> combine_statistics(
    const Kernel& kernel, const Tensor& mean, const Tensor& invstd,
    const std::optional<Tensor>& running_mean, const std::optional<Tensor>& running_var,
    double momentum, double eps, const Tensor& counts) {
  auto means = kernel.read(mean), inverse = kernel.read(invstd);
  auto weights = counts.to(means.scalar_type()).reshape({-1, 1});
  auto total = weights.sum();
  auto center = (means * weights).sum(0) / total;
  auto squares = ((inverse.pow(-2) - eps + (means - center).square()) * weights).sum(0);
  auto move = [&](const std::optional<Tensor>& running, const Tensor& value) {
    auto target = kernel.read(running, true);
    if (target.defined()) target.mul_(1 - momentum).add_(value.to(target.scalar_type()), momentum);
  };
  move(running_mean, center);
  move(running_var, squares / (total - 1));
  return {kernel.result(center), kernel.result((squares / total + eps).rsqrt())};
}

inline std::tuple<Tensor, Tensor> batch_norm_gather_stats_with_counts(
    const Tensor& input, const Tensor& mean, const Tensor& invstd,
    const std::optional<Tensor>& running_mean, const std::optional<Tensor>& running_var,
    double momentum, double eps, const Tensor& counts) {
  at::AutoDispatchBelowADInplaceOrView below;
  Kernel kernel("aten::batch_norm_gather_stats_with_counts", input);
  return combine_statistics(
      kernel, mean, invstd, running_mean, running_var, momentum, eps, kernel.read(counts));
}

inline std::tuple<Tensor, Tensor> batch_norm_gather_stats(
    const Tensor& input, const Tensor& mean, const Tensor& invstd,
    const std::optional<Tensor>& running_mean, const std::optional<Tensor>& running_var,
    double momentum, double eps, int64_t count) {
  at::AutoDispatchBelowADInplaceOrView below;
  Kernel kernel("aten::batch_norm_gather_stats", input);
  auto counts = at::full({mean.size(0)}, (double)count, at::kDouble);
  return combine_statistics(
      kernel, mean, invstd, running_mean, running_var, momentum, eps, counts);
}

inline std::tuple<Tensor, Tensor> batch_norm_update_stats(
    const Tensor& input, const std::optional<Tensor>& running_mean,
    const std::optional<Tensor>& running_var, double momentum) {
  at::AutoDispatchBelowADInplaceOrView below;
  Kernel kernel("aten::batch_norm_update_stats", input);
  auto x = kernel.read(input).to(accumulate_type(input));
  auto dims = all_but_channels(x);
  auto mean = x.mean(dims);
  auto variance = (x - per_channel(mean, x)).square().mean(dims);
  double count = x.numel() / x.size(1);
  auto move = [&](const std::optional<Tensor>& running, const Tensor& value) {
    auto target = kernel.read(running, true);
    if (target.defined()) target.mul_(1 - momentum).add_(value.to(target.scalar_type()), momentum);
  };
  move(running_mean, mean);
  move(running_var, variance * (count / (count - 1)));
  return {kernel.result(mean), kernel.result(variance)};
}

inline Tensor normalized(
    const Kernel& kernel, const Tensor& input, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, const Tensor& mean, const Tensor& invstd) {
  auto x = kernel.read(input);
  auto center = kernel.read(mean), scale = kernel.read(invstd);
  auto y = (x.to(center.scalar_type()) - per_channel(center, x)) * per_channel(scale, x);
  auto w = kernel.read(weight), b = kernel.read(bias);
  if (w.defined()) y = y * per_channel(w.to(y.scalar_type()), x);
  if (b.defined()) y = y + per_channel(b.to(y.scalar_type()), x);
  return y.to(x.scalar_type());
}

// As the result of to_device, in the layout of the input.
inline Tensor in_layout_of(const Kernel& kernel, const Tensor& value, const Tensor& input) {
  auto laid_out = value.contiguous(input.suggest_memory_format());
  return to_device(laid_out, kernel.device, kernel.stream, kernel.position);
}

inline Tensor batch_norm_elemt(
    const Tensor& input, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const Tensor& mean, const Tensor& invstd, double) {
  at::AutoDispatchBelowADInplaceOrView below;
  Kernel kernel("aten::batch_norm_elemt", input);
  auto y = normalized(kernel, input, weight, bias, mean, invstd);
  return in_layout_of(kernel, y, input);
}

inline Tensor& batch_norm_elemt_out(
    const Tensor& input, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const Tensor& mean, const Tensor& invstd, double, Tensor& out) {
  at::AutoDispatchBelowADInplaceOrView below;
  Kernel kernel("aten::batch_norm_elemt.out", input);
  auto y = normalized(kernel, input, weight, bias, mean, invstd);
  kernel.read(out, true).copy_(y);
  return out;
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward_reduce(
    const Tensor& grad_out, const Tensor& input, const Tensor& mean, const Tensor& invstd,
    const std::optional<Tensor>& weight, bool input_g, bool weight_g, bool bias_g) {
  at::AutoDispatchBelowADInplaceOrView below;
  Kernel kernel("aten::batch_norm_backward_reduce", input);
  auto center = kernel.read(mean), scale = kernel.read(invstd);
  auto x = kernel.read(input).to(center.scalar_type());
  auto dy = kernel.read(grad_out).to(center.scalar_type());
  auto dims = all_but_channels(x);
  auto sum_dy = dy.sum(dims);
  auto sum_dy_xmu = (dy * (x - per_channel(center, x))).sum(dims);
  auto type = weight && weight->defined() ? weight->scalar_type() : center.scalar_type();
  Tensor none;
  return {
      kernel.result(input_g ? sum_dy : none), kernel.result(input_g ? sum_dy_xmu : none),
      kernel.result(weight_g ? (sum_dy_xmu * scale).to(type) : none),
      kernel.result(bias_g ? sum_dy.to(type) : none)};
}

inline Tensor batch_norm_backward_elemt(
    const Tensor& grad_out, const Tensor& input, const Tensor& mean, const Tensor& invstd,
    const std::optional<Tensor>& weight, const Tensor& sum_dy, const Tensor& sum_dy_xmu,
    const Tensor& count) {
  at::AutoDispatchBelowADInplaceOrView below;
  Kernel kernel("aten::batch_norm_backward_elemt", input);
  auto center = kernel.read(mean), scale = kernel.read(invstd);
  auto x = kernel.read(input).to(center.scalar_type());
  auto dy = kernel.read(grad_out).to(center.scalar_type());
  auto total = kernel.read(count).sum().to(center.scalar_type());
  auto mean_dy = kernel.read(sum_dy) / total;
  auto slope = kernel.read(sum_dy_xmu) / total * scale.square();
  auto factor = scale;
  auto w = kernel.read(weight);
  if (w.defined()) factor = factor * w.to(factor.scalar_type());
  auto dx = (dy - per_channel(mean_dy, x) - (x - per_channel(center, x)) * per_channel(slope, x)) *
      per_channel(factor, x);
  return in_layout_of(kernel, dx.to(input.scalar_type()), input);
}

}  // namespace pretend
