// Allocation of tensors and copies between host and device.
#pragma once
#include "streams.h"

#include <ATen/EmptyTensor.h>

namespace pretend {
using c10::ScalarType;
using c10::SymInt;
using c10::SymIntArrayRef;

inline Device device_or_current(std::optional<Device> device) {
  return device && device->has_index() ? *device : Device(CUDA, current_device);
}

inline Tensor empty_strided(
    SymIntArrayRef size, SymIntArrayRef stride, std::optional<ScalarType> dtype,
    std::optional<c10::Layout>, std::optional<Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(device_or_current(device));
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &device_allocator,
      c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype));
}

inline Tensor empty(
    SymIntArrayRef size, std::optional<ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<Device> device, std::optional<bool> pin,
    std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  c10::DeviceGuard guard(device_or_current(device));
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &device_allocator,
      c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype), format);
}

// What a CPU kernel returned, as memory of the device that the work of `stream` wrote.
inline Tensor to_device(const Tensor& result, Device device, StreamKey stream, uint64_t position) {
  if (!result.defined()) return result;
  c10::DeviceGuard guard(device);
  Tensor tensor = at::detail::empty_strided_generic(
      result.sizes(), result.strides(), &device_allocator,
      c10::DispatchKeySet(c10::DispatchKey::CUDA), result.scalar_type());
  as_cpu(tensor).copy_(result);
  note_use(tensor, stream, position, true, "a kernel");
  return tensor;
}

inline const Tensor& resize(
    const Tensor& self, SymIntArrayRef size, std::optional<c10::MemoryFormat> format) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (self.sizes() == sizes) return self;
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(sizes);
  if (format && *format != c10::MemoryFormat::Preserve) impl->empty_tensor_restride(*format);
  size_t need = at::detail::computeStorageNbytes(
      self.sizes(), self.strides(), self.itemsize(), self.storage_offset());
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (need > storage->nbytes()) {
    c10::DeviceGuard guard(self.device());
    auto data = device_allocator.allocate(need);
    if (storage->nbytes()) memcpy(data.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr(std::move(data));
    storage->set_nbytes(need);
  }
  return self;
}

inline Tensor& set_storage(
    Tensor& self, c10::Storage source, SymInt offset, SymIntArrayRef size, SymIntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (stride.size() == sizes.size() && (stride.size() || sizes.empty()))
    impl->set_sizes_and_strides(sizes, C10_AS_INTARRAYREF_SLOW(stride));
  else
    impl->set_sizes_contiguous(sizes);
  impl->set_storage_offset(offset.expect_int());
  return self;
}

inline Tensor& set_source(Tensor& self, c10::Storage source) {
  SymInt numel((int64_t)(source.nbytes() / self.itemsize()));
  return set_storage(self, std::move(source), SymInt(0), SymIntArrayRef(&numel, 1), {});
}

inline uint64_t checksum(const Tensor& tensor) {
  auto dense = tensor.contiguous();
  auto* bytes = (const uint8_t*)dense.const_data_ptr();
  size_t num_bytes = dense.nbytes(), i = 0;
  uint64_t hash = 1469598103934665603ull, word;
  for (; i + 8 <= num_bytes; i += 8) {
    memcpy(&word, bytes + i, 8);
    hash = (hash ^ word) * 1099511628211ull;
  }
  for (; i < num_bytes; i++) hash = (hash ^ bytes[i]) * 1099511628211ull;
  return hash;
}

inline void copy_memory(Tensor to, const Tensor& from) {
  at::AutoDispatchBelowADInplaceOrView below;
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  at::NoGradGuard no_grad;
  to.copy_(from);
}

// Later on its stream. Until then a reader of a page-locked target sees 0xFF, and a source that is
// overwritten is a fault: the GPU would have copied some of the new values.
inline void copy_later(const Tensor& self, const Tensor& source, StreamKey stream) {
  bool is_upload = self.is_cuda();
  Tensor to = is_upload ? as_cpu(self) : self, from = is_upload ? source : as_cpu(source);
  uint64_t before = checksum(from);
  if (!is_upload && self.is_non_overlapping_and_dense()) memset(self.mutable_data_ptr(), 0xFF, self.nbytes());
  auto position = enqueue(stream, [to, from, before]() {
    TORCH_CHECK(
        checksum(from) == before,
        "race: the source of a copy between host and GPU was overwritten before the copy was done");
    copy_memory(to, from);
  });
  note_use(self, stream, position, true, "aten::copy_");
  note_use(source, stream, position, false, "aten::copy_");
}

inline Tensor& copy(Tensor& self, const Tensor& source, bool non_blocking) {
  raise_deferred_fault();
  bool is_upload = self.is_cuda(), is_download = source.is_cuda();
  auto device = is_upload ? self.device() : source.device();
  auto stream = current_stream(device.index());
  if (is_upload && is_download) {
    auto position = start_kernel(stream);
    note_use(self, stream, position, true, "aten::copy_");
    note_use(source, stream, position, false, "aten::copy_");
    count_launch("aten::copy_");
    copy_memory(as_cpu(self), as_cpu(source));
    return self;
  }
  const Tensor& host = is_upload ? source : self;
  std::string kind = is_upload ? "H2D" : "D2H";
  if (host.numel() == 0) return self;
  if (non_blocking && is_pinned(host.const_data_ptr())) {
    count_copy(kind + " async", host.nbytes());
    copy_later(self, source, stream);
    return self;
  }
  // CUDA waits for the stream before it stages pageable memory, non_blocking or not.
  count_copy(kind, host.nbytes());
  report_sync(kind.c_str(), "aten::copy_", describe(source));
  auto position = start_kernel(stream);
  note_use(self, stream, position, true, "aten::copy_");
  note_use(source, stream, position, false, "aten::copy_");
  copy_memory(is_upload ? as_cpu(self) : self, is_download ? as_cpu(source) : source);
  host_waited(stream, position);
  return self;
}

inline c10::Scalar local_scalar(const Tensor& self) {
  raise_deferred_fault();
  report_sync("D2H", "aten::_local_scalar_dense", describe(self));
  auto stream = current_stream(self.device().index());
  auto position = start_kernel(stream);
  note_use(self, stream, position, false, "aten::_local_scalar_dense");
  host_waited(stream, position);
  return as_cpu(self).item();
}

}  // namespace pretend
