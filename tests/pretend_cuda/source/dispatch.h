// Every operator without an own kernel here: the CPU's kernel on the same memory.
#pragma once
#include "copies.h"
#include "hooks.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <unordered_set>

namespace pretend {
using c10::IValue;
using c10::List;
using torch::jit::Stack;

// From native_functions.yaml: operators that accept a 0-dim CPU tensor beside those of the device,
// and those without a CUDA kernel. By hand: those whose CUDA kernel waits for the device.
inline std::unordered_set<std::string> accepts_cpu_scalars, without_cuda_kernel, synchronizing;

template <class Visit>
void visit_tensors(const IValue& value, Visit&& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isTensorList()) {
    for (const Tensor& tensor : value.toTensorVector())
      if (tensor.defined()) visit(tensor);
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorList())
      if (tensor && tensor->defined()) visit(*tensor);
  }
}

struct Call {
  std::string name;
  const c10::FunctionSchema& schema;
  Stack* stack;
  size_t first;                     // of the arguments on the stack
  std::vector<IValue> arguments;    // as they came
  Device device;
  StreamKey stream;
  uint64_t position;

  bool starts_with(const char* prefix) const { return name.rfind(prefix, 0) == 0; }
  bool writes(size_t i) const {
    auto* alias = schema.arguments()[i].alias_info();
    return alias && alias->isWrite();
  }
};

inline Device device_of(const std::string& name, const std::vector<IValue>& arguments) {
  std::optional<Device> device;
  for (auto& value : arguments)
    visit_tensors(value, [&](const Tensor& tensor) {
      if (tensor.is_cuda() && !device) device = tensor.device();
    });
  for (auto& value : arguments)
    if (!device && value.isDevice()) device = Guard().with_index(value.toDevice());
  TORCH_CHECK(device, name, ": no device");
  return *device;
}

inline bool is_mask(const Tensor& tensor) {
  return tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte;
}

// Waits of CUDA's index_put: each mask becomes indices whose number the host must know, and indices
// on the CPU are copied. Reading at indices makes its calls of nonzero and copy_ before it comes here.
inline void report_index_syncs(const Call& call) {
  if (!call.starts_with("aten::_index_put_impl_") && !call.starts_with("aten::index_put")) return;
  // One CPU number under masks is masked_fill, which waits for nothing.
  const auto& value = call.arguments[2].toTensor();
  bool has_only_masks = true;
  visit_tensors(call.arguments[1], [&](const Tensor& t) { has_only_masks &= is_mask(t); });
  bool accumulates = call.arguments.size() > 3 && call.arguments[3].toBool();
  if (has_only_masks && !accumulates && value.is_cpu() && value.numel() == 1) return;
  if (value.is_cpu()) report_sync("H2D", call.name, "value " + describe(value));
  visit_tensors(call.arguments[1], [&](const Tensor& tensor) {
    if (tensor.is_cpu() && tensor.numel()) report_sync("H2D", call.name, "indices " + describe(tensor));
    if (is_mask(tensor)) report_sync("operator", call.name, "mask " + describe(tensor));
  });
}

// The argument for the CPU's kernel; a tensor on the wrong device is refused as CUDA does.
inline Tensor argument_for_cpu(const Call& call, const Tensor& tensor, bool may_be_on_cpu) {
  if (!tensor.defined()) return tensor;
  bool is_here = tensor.is_cuda() && tensor.device() == call.device;
  if (is_here) return as_cpu(tensor);
  bool is_number = tensor.is_cpu() && tensor.dim() == 0 &&
      (accepts_cpu_scalars.count(call.name) || tensor.unsafeGetTensorImpl()->is_wrapped_number());
  TORCH_CHECK(
      is_number || (may_be_on_cpu && tensor.is_cpu()),
      "Expected all tensors to be on the same device, but found at least two devices, ",
      call.device, " and ", tensor.device(), "! (", call.name, ")");
  return tensor;
}

inline List<Tensor> list_for_cpu(const Call& call, const std::vector<Tensor>& tensors) {
  List<Tensor> converted;
  for (const Tensor& tensor : tensors) converted.push_back(argument_for_cpu(call, tensor, false));
  return converted;
}

// Puts the CPU's arguments on the stack; the generator that it draws from, if any.
inline Generator* convert_arguments(const Call& call) {
  Generator* generator = nullptr;
  bool is_indexing = call.starts_with("aten::index.Tensor") ||
      call.starts_with("aten::_index_put_impl_") || call.starts_with("aten::index_put");
  for (size_t i = 0; i < call.arguments.size(); i++) {
    auto& value = (*call.stack)[call.first + i];
    bool is_put_value = is_indexing && i == 2 && value.isTensor() && value.toTensor().defined() &&
        value.toTensor().dim() == 0;
    if (value.isTensor()) {
      value = argument_for_cpu(call, value.toTensor(), is_put_value);
    } else if (value.isTensorList()) {
      value = list_for_cpu(call, value.toTensorVector());
    } else if (value.isOptionalTensorList()) {
      List<std::optional<Tensor>> converted;
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorList())
        converted.push_back(
            tensor ? std::optional<Tensor>(argument_for_cpu(call, *tensor, is_indexing)) : tensor);
      value = converted;
    } else if (value.isList() && value.toList().size() && value.toListRef()[0].isTensorList()) {
      List<List<Tensor>> converted;  // of collectives
      for (const IValue& inner : value.toListRef())
        converted.push_back(list_for_cpu(call, inner.toTensorVector()));
      value = converted;
    } else if (value.isDevice()) {
      value = Device(c10::DeviceType::CPU);
    } else if (call.schema.arguments()[i].name() == "generator") {
      auto chosen =
          value.isGenerator() ? value.toGenerator() : default_generator(call.device.index());
      TORCH_CHECK(
          chosen.device().type() == CUDA, "Expected a 'cuda' device type for generator but found '",
          chosen.device().type(), "' (", call.name, ")");
      generator = static_cast<Generator*>(chosen.unsafeGetGeneratorImpl());
      value = chosen;
    }
  }
  return generator;
}

// An argument that the kernel resized: gives the device's tensor the same size and memory.
inline void take_back(const Tensor& own, const Tensor& cpu) {
  if (!own.defined() || !own.is_cuda()) return;
  auto* impl = own.unsafeGetTensorImpl();
  bool has_moved = own.storage().data() != cpu.storage().data();
  if (!has_moved && own.sizes() == cpu.sizes() && own.strides() == cpu.strides()) return;
  if (has_moved) resize(own, c10::fromIntArrayRefSlow(cpu.sizes()), std::nullopt);
  auto offset = has_moved ? own.storage_offset() : cpu.storage_offset();
  impl->set_sizes_and_strides(cpu.sizes(), cpu.strides(), offset);
  if (has_moved) as_cpu(own).copy_(cpu);
}

inline void take_back_arguments(const Call& call, const std::vector<IValue>& used) {
  for (size_t i = 0; i < call.arguments.size(); i++) {
    if (!call.writes(i)) continue;
    if (call.arguments[i].isTensor()) {
      take_back(call.arguments[i].toTensor(), used[i].toTensor());
    } else if (call.arguments[i].isTensorList()) {
      auto own = call.arguments[i].toTensorVector(), cpu = used[i].toTensorVector();
      for (size_t k = 0; k < own.size(); k++) take_back(own[k], cpu[k]);
    }
  }
}

// Which argument a result is an alias of.
inline std::optional<size_t> aliased_argument(const Call& call, const c10::Argument& result) {
  if (!result.alias_info()) return std::nullopt;
  const auto& arguments = call.schema.arguments();
  for (size_t i = 0; i < arguments.size(); i++)
    if (arguments[i].alias_info())
      for (auto& set : arguments[i].alias_info()->beforeSets())
        if (result.alias_info()->beforeSets().count(set)) return i;
  return std::nullopt;
}

// Makes the kernel's results tensors of the device; true where all of them are views.
inline bool convert_results(const Call& call) {
  const auto& results = call.schema.returns();
  size_t first = call.stack->size() - results.size();
  bool is_view = !results.empty();
  for (size_t r = 0; r < results.size(); r++) {
    auto& value = (*call.stack)[first + r];
    auto source = aliased_argument(call, results[r]);
    auto convert = [&](const Tensor& tensor) -> Tensor {
      if (!tensor.defined()) return tensor;
      if (source && call.arguments[*source].isTensor()) {
        auto base = call.arguments[*source].toTensor();
        if (base.is_cuda() && tensor.storage().data() == base.storage().data())
          return make_tensor(c10::Storage(base.storage()), c10::DispatchKey::CUDA, tensor);
      }
      is_view = false;
      return to_device(tensor, call.device, call.stream, call.position);
    };
    if (source && results[r].alias_info()->isWrite()) {
      value = call.arguments[*source];
      is_view = false;
    } else if (value.isTensor()) {
      value = convert(value.toTensor());
    } else if (value.isTensorList()) {
      List<Tensor> converted;
      for (const Tensor& tensor : value.toTensorVector()) converted.push_back(convert(tensor));
      value = converted;
    }
  }
  return is_view;
}

// Views only change numbers on the host: they neither use the memory nor start a kernel.
inline bool only_returns_views(const c10::FunctionSchema& schema) {
  for (auto& result : schema.returns())
    if (!result.alias_info() || result.alias_info()->isWrite()) return false;
  return !schema.returns().empty();
}

// softmax of half precision to float32 is one kernel on CUDA, and the CPU's has no such form: the
// conversion is made before it, or after the kernel of the backward pass, by take_back.
inline void replace_mixed_softmax(const Call& call) {
  auto argument = [&](size_t i) -> IValue& { return (*call.stack)[call.first + i]; };
  if (call.name == "aten::_softmax.out" || call.name == "aten::_log_softmax.out") {
    if (argument(2).toBool()) argument(0) = argument(0).toTensor().to(at::kFloat);
    argument(2) = false;
  }
  if (call.name == "aten::_softmax_backward_data.out" ||
      call.name == "aten::_log_softmax_backward_data.out") {
    auto gradient = argument(0).toTensor();
    argument(3) = (int64_t)gradient.scalar_type();
    if (argument(4).toTensor().scalar_type() != gradient.scalar_type())
      argument(4) = at::empty_like(gradient);
  }
}

inline void fallback(const c10::OperatorHandle& op, Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  raise_deferred_fault();
  const auto& schema = op.schema();
  std::string name = schema.name();
  if (!schema.overload_name().empty()) name += "." + schema.overload_name();
  TORCH_CHECK_NOT_IMPLEMENTED(
      !without_cuda_kernel.count(name), "Could not run '", name,
      "' with arguments from the 'CUDA' backend.");
  size_t first = stack->size() - schema.arguments().size();
  std::vector<IValue> arguments(stack->begin() + first, stack->end());
  auto device = device_of(name, arguments);
  auto stream = current_stream(device.index());
  Call call{name, schema, stack, first, std::move(arguments), device, stream, 0};
  bool is_view = only_returns_views(schema);
  if (!is_view) {
    if (synchronizing.count(name)) report_sync("operator", name);
    report_index_syncs(call);
    call.position = start_kernel(stream);
    for (size_t i = 0; i < call.arguments.size(); i++)
      visit_tensors(call.arguments[i], [&](const Tensor& tensor) {
        note_use(tensor, stream, call.position, call.writes(i), name);
      });
  }
  Generator* generator = convert_arguments(call);
  replace_mixed_softmax(call);
  std::vector<IValue> used(stack->begin() + first, stack->end());
  if (generator) generator->set_device(Device(c10::DeviceType::CPU));
  try {
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  } catch (...) {
    if (generator) generator->set_device(device);
    throw;
  }
  if (generator) generator->set_device(device);
  if (call.starts_with("c10d::")) return;  // their results are Works
  take_back_arguments(call, used);
  if (!convert_results(call)) count_launch(name);
  if (synchronizing.count(name)) host_waited(stream, call.position);
}

}  // namespace pretend
