// Device memory and page-locked memory: both are the host's, with accounts and limits.
#pragma once
#include <torch/extension.h>

#include <array>
#include <map>
#include <mutex>
#include <unordered_map>

namespace pretend {
using c10::Allocator;
using c10::DataPtr;
using c10::Device;
using c10::DeviceIndex;
using c10::StreamId;
using at::Tensor;

constexpr auto CUDA = c10::DeviceType::CUDA;
constexpr int MAX_DEVICES = 16;
inline int num_devices = 1;
inline thread_local DeviceIndex current_device = 0;

// A stream of a device, and a moment in the order of its work.
using StreamKey = std::pair<DeviceIndex, StreamId>;
inline thread_local std::map<DeviceIndex, StreamId> current_streams;
inline StreamKey current_stream(DeviceIndex device) { return {device, current_streams[device]}; }

struct Account {
  size_t allocated = 0, peak_allocated = 0, reserved = 0, peak_reserved = 0;
  size_t limit = size_t(8) << 30;
};

// Who used a block last: where no event orders two uses of different streams, a GPU may do them
// in either order. Positions count the work of a stream.
struct Block {
  size_t num_bytes;
  StreamKey home;                          // the stream it was allocated on
  std::optional<std::pair<StreamKey, uint64_t>> last_write;
  std::map<StreamKey, uint64_t> last_uses;
  std::vector<StreamKey> recorded;         // record_stream was called for these
};

inline std::mutex memory_lock;
inline std::unordered_map<const void*, Block> blocks;
inline std::array<Account, MAX_DEVICES> accounts;

// streams.h defines it: is this use known to have ended where `home` continues?
bool is_ordered_before_free(const Block& block, std::string& fault);

constexpr size_t SEGMENT = size_t(2) << 20;  // what torch's caching allocator reserves at least

inline void free_device_memory(void* pointer) {
  if (!pointer) return;
  std::string fault;
  {
    std::lock_guard<std::mutex> guard(memory_lock);
    auto entry = blocks.find(pointer);
    auto& block = entry->second;
    if (!is_ordered_before_free(block, fault)) defer_fault(fault);
    accounts[block.home.first].allocated -= block.num_bytes;
    memset(pointer, 0xFF, block.num_bytes);  // a later read gives NaN
    blocks.erase(entry);
  }
  free(pointer);
}

struct DeviceAllocator : Allocator {
  DataPtr allocate(size_t num_bytes) override {
    void* pointer = nullptr;
    if (num_bytes) {
      std::lock_guard<std::mutex> guard(memory_lock);
      auto& account = accounts[current_device];
      TORCH_CHECK_WITH(
          OutOfMemoryError, account.allocated + num_bytes <= account.limit,
          "CUDA out of memory. Tried to allocate ", num_bytes, " bytes. GPU ", int(current_device),
          " has a total capacity of ", account.limit, " bytes of which ",
          account.limit - account.allocated, " bytes is free.");
      TORCH_CHECK(!posix_memalign(&pointer, 512, num_bytes), "the host has no memory left");
      memset(pointer, 0xFF, num_bytes);  // whoever reads before writing reads NaN
      blocks[pointer] = Block{num_bytes, current_stream(current_device), std::nullopt, {}, {}};
      account.allocated += num_bytes;
      account.peak_allocated = std::max(account.peak_allocated, account.allocated);
      size_t rounded = std::min(account.limit, (account.allocated + SEGMENT - 1) / SEGMENT * SEGMENT);
      account.reserved = std::max(account.reserved, rounded);
      account.peak_reserved = std::max(account.peak_reserved, account.reserved);
    }
    return {pointer, pointer, &free_device_memory, Device(CUDA, current_device)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_device_memory; }
  void copy_data(void* to, const void* from, size_t n) const override { memcpy(to, from, n); }
};
inline DeviceAllocator device_allocator;

inline void empty_cache() {
  std::lock_guard<std::mutex> guard(memory_lock);
  for (auto& account : accounts)
    account.reserved = std::min(account.limit, (account.allocated + SEGMENT - 1) / SEGMENT * SEGMENT);
}

// ---- page-locked memory
inline std::mutex pinned_lock;
inline std::map<uintptr_t, size_t> pinned_ranges;
inline size_t pinned_bytes = 0, peak_pinned_bytes = 0, pinned_limit = SIZE_MAX;

inline bool is_pinned(const void* pointer) {
  std::lock_guard<std::mutex> guard(pinned_lock);
  auto address = (uintptr_t)pointer;
  auto range = pinned_ranges.upper_bound(address);
  if (range == pinned_ranges.begin()) return false;
  --range;
  return address < range->first + range->second;
}

// False where the limit does not allow it.
inline bool pin(uintptr_t address, size_t num_bytes) {
  std::lock_guard<std::mutex> guard(pinned_lock);
  if (num_bytes > pinned_limit || pinned_bytes > pinned_limit - num_bytes) return false;
  pinned_ranges[address] = num_bytes;
  pinned_bytes += num_bytes;
  peak_pinned_bytes = std::max(peak_pinned_bytes, pinned_bytes);
  return true;
}

inline bool unpin(uintptr_t address) {
  std::lock_guard<std::mutex> guard(pinned_lock);
  auto range = pinned_ranges.find(address);
  if (range == pinned_ranges.end()) return false;
  pinned_bytes -= range->second;
  pinned_ranges.erase(range);
  return true;
}

inline void free_pinned_memory(void* pointer) {
  if (!pointer) return;
  unpin((uintptr_t)pointer);
  free(pointer);
}

struct PinnedAllocator : Allocator {
  DataPtr allocate(size_t num_bytes) override {
    void* pointer = nullptr;
    if (num_bytes) {
      TORCH_CHECK(!posix_memalign(&pointer, 64, num_bytes), "the host has no memory left");
      if (!pin((uintptr_t)pointer, num_bytes)) {
        free(pointer);
        TORCH_CHECK(false, "CUDA error: out of memory (page-locked memory: ", num_bytes, " bytes)");
      }
    }
    return {pointer, pointer, &free_pinned_memory, Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned_memory; }
  void copy_data(void* to, const void* from, size_t n) const override { memcpy(to, from, n); }
};
inline PinnedAllocator pinned_allocator;

// ---- tensors over this memory
inline Tensor make_tensor(c10::Storage storage, c10::DispatchKey key, const Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), like.dtype());
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return tensor;
}

// The same memory as a tensor of the CPU.
inline Tensor as_cpu(const Tensor& tensor) {
  auto* owner = new c10::Storage(tensor.storage());
  DataPtr data(
      owner->mutable_data(), owner, [](void* held) { delete (c10::Storage*)held; },
      Device(c10::DeviceType::CPU));
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), std::move(data),
      c10::GetAllocator(c10::DeviceType::CPU), true);
  auto view = make_tensor(std::move(storage), c10::DispatchKey::CPU, tensor);
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number())
    view.unsafeGetTensorImpl()->set_wrapped_number(true);
  return view;
}

}  // namespace pretend
