// What torch asks of CUDA besides kernels: random numbers, allocators, the number of devices.
#pragma once
#include "streams.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>

namespace pretend {

// Reports cuda as its device; draws as the CPU does while a kernel runs.
struct Generator : at::CPUGeneratorImpl {
  explicit Generator(DeviceIndex index) : CPUGeneratorImpl(0) {
    device_ = {CUDA, index};
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::CUDA);
  }
  void set_device(Device device) { device_ = device; }
};

inline const at::Generator& default_generator(DeviceIndex index) {
  static std::vector<at::Generator> generators = [] {
    std::vector<at::Generator> made;
    for (int i = 0; i < MAX_DEVICES; i++) made.push_back(at::make_generator<Generator>(i));
    return made;
  }();
  return generators[index < 0 ? current_device : index];
}

struct Hooks : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(DeviceIndex index) const override {
    return at::make_generator<Generator>(index < 0 ? pretend::current_device : index);
  }
  Device getDeviceFromPtr(void*) const override { return {CUDA, pretend::current_device}; }
  bool isPinnedPtr(const void* pointer) const override { return is_pinned(pointer); }
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  Allocator* getCUDADeviceAllocator() const override { return &device_allocator; }
  DeviceIndex current_device() const override { return pretend::current_device; }
  DeviceIndex deviceCount() const override { return num_devices; }
  int getNumGPUs() const override { return num_devices; }
  void setCurrentDevice(DeviceIndex index) const override { pretend::current_device = index; }
  DeviceIndex getCurrentDevice() const override { return pretend::current_device; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    return std::exchange(pretend::current_device, index);
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override {
    return std::exchange(pretend::current_device, index);
  }
  void deviceSynchronize(DeviceIndex index) const override { Guard().synchronizeDevice(index); }
};

}  // namespace pretend
