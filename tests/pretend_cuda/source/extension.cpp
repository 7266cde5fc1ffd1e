// A pretend CUDA for a CPU build of torch: tensors report cuda, memory is the host's, kernels are
// the CPU's. This file registers the parts with torch and Python; each part is a header.
#include "batch_norm.h"

#include <torch/csrc/Event.h>

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, ::pretend::Hooks)
}
namespace pretend {
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

torch::CppFunction boxed_fallback() {
  return torch::CppFunction::makeFromBoxedFunction<&fallback>();
}
}  // namespace pretend

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(pretend::boxed_fallback()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", pretend::empty);
  m.impl("empty_strided", pretend::empty_strided);
  m.impl("resize_", pretend::resize);
  m.impl("set_.source_Storage_storage_offset", pretend::set_storage);
  m.impl("set_.source_Storage", pretend::set_source);
  m.impl("copy_", pretend::copy);
  m.impl("_local_scalar_dense", pretend::local_scalar);
  m.impl("record_stream", pretend::record_stream);
  m.impl("batch_norm_stats", pretend::batch_norm_stats);
  m.impl("batch_norm_gather_stats", pretend::batch_norm_gather_stats);
  m.impl("batch_norm_gather_stats_with_counts", pretend::batch_norm_gather_stats_with_counts);
  m.impl("batch_norm_update_stats", pretend::batch_norm_update_stats);
  m.impl("batch_norm_elemt", pretend::batch_norm_elemt);
  m.impl("batch_norm_elemt.out", pretend::batch_norm_elemt_out);
  m.impl("batch_norm_backward_reduce", pretend::batch_norm_backward_reduce);
  m.impl("batch_norm_backward_elemt", pretend::batch_norm_backward_elemt);
  // Composite functions that would choose a CUDA kernel themselves.
  for (auto name : {"convolution", "convolution_backward"}) m.impl(name, pretend::boxed_fallback());
}

namespace pretend {
// Gloo's collectives on the same memory. torch warns that kernels of its own are replaced.
void register_collectives() {
  struct Silent : c10::WarningHandler {
    void process(const c10::Warning&) override {}
  } silent;
  c10::WarningUtils::WarningHandlerGuard guard(&silent);
  static torch::Library library(
      torch::Library::IMPL, "c10d", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  for (auto name : {"allreduce_", "allreduce_coalesced_", "broadcast_", "allgather_",
                    "_allgather_base_", "alltoall_base_", "reduce_", "barrier"})
    library.impl(name, boxed_fallback());
}
}  // namespace pretend

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace pretend;
  c10::SetAllocator(c10::DeviceType::CUDA, &device_allocator, 1);
  register_collectives();
  using names = std::vector<std::string>;
  using without_gil = py::call_guard<py::gil_scoped_release>;
  m.def("has_hooks", [] { return at::detail::getCUDAHooks().hasCUDA(); });
  m.def("set_operator_tables", [](const names& scalars, const names& missing, const names& syncs) {
    accepts_cpu_scalars = {scalars.begin(), scalars.end()};
    without_cuda_kernel = {missing.begin(), missing.end()};
    synchronizing = {syncs.begin(), syncs.end()};
  });

  m.def("set_sync_listener", [](py::object listener) {
    delete sync_listener;
    sync_listener = listener.is_none() ? nullptr : new py::object(listener);
  });
  m.def("launches", [] { std::lock_guard<std::mutex> guard(report_lock); return launches; });
  m.def("copies", [] { std::lock_guard<std::mutex> guard(report_lock); return copies; });
  m.def("reset_counts", [] {
    std::lock_guard<std::mutex> guard(report_lock);
    launches.clear();
    copies.clear();
  });

  m.def("set_num_devices", [](int number) {
    TORCH_CHECK(number >= 0 && number <= MAX_DEVICES, "at most ", MAX_DEVICES, " devices");
    num_devices = number;
  });
  m.def("current_device", [] { return (int)current_device; });
  m.def("set_device", [](int index) { Guard().setDevice(Device(CUDA, index)); });
  m.def("generator", [](int index) { return default_generator(index); });
  m.def("as_cpu", [](const Tensor& tensor) {
    auto stream = current_stream(tensor.device().index());
    py::gil_scoped_release release;
    drain(stream);
    return as_cpu(tensor);
  });

  m.def("current_stream", [](int device) { return current_streams[device]; });
  m.def("exchange_stream", [](int device, int64_t stream) {
    return std::exchange(current_streams[device], stream);
  });
  m.def("synchronize", [](int device) { Guard().synchronizeDevice(device); }, without_gil());
  // torch.Event.elapsed_time refuses subclasses.
  m.def("elapsed_ms", [](py::handle start, py::handle end) {
    auto &first = ((THPEvent*)start.ptr())->event, &second = ((THPEvent*)end.ptr())->event;
    return first.elapsedTime(second);
  });
  m.def("num_pending_copies", [] {
    std::lock_guard<std::recursive_mutex> guard(queue_lock);
    size_t number = 0;
    for (auto& [key, queue] : queues) number += queue.jobs.size();
    return number;
  }, without_gil());

  m.def("memory", [](int device) {
    std::lock_guard<std::mutex> guard(memory_lock);
    auto& account = accounts[device];
    return std::map<std::string, size_t>{
        {"allocated", account.allocated}, {"peak_allocated", account.peak_allocated},
        {"reserved", account.reserved}, {"peak_reserved", account.peak_reserved},
        {"limit", account.limit}};
  });
  m.def("reset_peak", [](int device) {
    std::lock_guard<std::mutex> guard(memory_lock);
    auto& account = accounts[device];
    account.peak_allocated = account.allocated;
    account.peak_reserved = account.reserved;
  });
  m.def("empty_cache", &empty_cache);
  m.def("set_memory_limit", [](int device, size_t num_bytes) {
    std::lock_guard<std::mutex> guard(memory_lock);
    accounts[device].limit = num_bytes;
  });
  m.def("pin", &pin);
  m.def("unpin", &unpin);
  m.def("pinned_memory", [] {
    std::lock_guard<std::mutex> guard(pinned_lock);
    return std::map<std::string, size_t>{
        {"bytes", pinned_bytes}, {"peak_bytes", peak_pinned_bytes}, {"limit", pinned_limit}};
  });
  m.def("set_pinned_limit", [](size_t num_bytes) {
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned_limit = num_bytes;
  });
}
