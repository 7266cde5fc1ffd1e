// Streams and events: copies that do not block wait in their stream's queue until something waits
// for them, and every use of memory is checked for an order between streams.
#pragma once
#include "reports.h"
#include "memory.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>
#include <deque>
#include <functional>

namespace pretend {
using c10::Stream;

// How much of each stream's work is known to be done: by the host, or wherever a stream continues.
using Clock = std::map<StreamKey, uint64_t>;
inline void merge(Clock& into, const Clock& from) {
  for (auto& [stream, position] : from) into[stream] = std::max(into[stream], position);
}
inline bool knows(const Clock& clock, StreamKey stream, uint64_t position) {
  auto entry = clock.find(stream);
  return entry != clock.end() && entry->second >= position;
}

struct Queue {
  uint64_t submitted = 0, done = 0;
  std::deque<std::function<void()>> jobs;
};

// Held while jobs run; they need no GIL.
inline std::recursive_mutex queue_lock;
inline std::map<StreamKey, Queue> queues;
inline StreamId next_stream = 1;

// Guarded by memory_lock.
inline std::map<StreamKey, Clock> stream_clocks;
inline Clock host_clock;

// Jobs that have run hold tensors, whose end may need the GIL: they end after queue_lock.
inline thread_local std::vector<std::function<void()>> finished_jobs;
inline thread_local int drain_depth = 0;

inline void drain(StreamKey stream, uint64_t up_to = UINT64_MAX) {
  struct Depth {
    Depth() { drain_depth++; }
    ~Depth() {
      if (--drain_depth == 0) {
        auto ended = std::move(finished_jobs);
        finished_jobs.clear();
      }
    }
  } depth;
  std::lock_guard<std::recursive_mutex> guard(queue_lock);
  auto& queue = queues[stream];
  while (!queue.jobs.empty() && queue.done < up_to) {
    finished_jobs.push_back(std::move(queue.jobs.front()));
    queue.jobs.pop_front();
    queue.done++;
    auto job = finished_jobs.back();
    job();
  }
}

inline void drain_device(DeviceIndex device) {
  std::vector<StreamKey> keys;
  {
    std::lock_guard<std::recursive_mutex> guard(queue_lock);
    for (auto& [key, queue] : queues)
      if (key.first == device) keys.push_back(key);
  }
  for (auto key : keys) drain(key);
}

// The position of the job in its stream's work.
inline uint64_t enqueue(StreamKey stream, std::function<void()> job) {
  std::lock_guard<std::recursive_mutex> guard(queue_lock);
  auto& queue = queues[stream];
  queue.jobs.push_back(std::move(job));
  return ++queue.submitted;
}

// An operator runs at once, after all that its stream still had to do.
inline uint64_t start_kernel(StreamKey stream) {
  drain(stream);
  std::lock_guard<std::recursive_mutex> guard(queue_lock);
  auto& queue = queues[stream];
  return queue.done = ++queue.submitted;
}

inline uint64_t submitted(StreamKey stream) {
  std::lock_guard<std::recursive_mutex> guard(queue_lock);
  return queues[stream].submitted;
}

inline void host_waited(StreamKey stream, uint64_t position) {
  std::lock_guard<std::mutex> guard(memory_lock);
  merge(host_clock, stream_clocks[stream]);
  host_clock[stream] = std::max(host_clock[stream], position);
}

inline std::string name_of(StreamKey stream) {
  return "stream " + std::to_string(stream.second) + " of cuda:" + std::to_string(stream.first);
}

// Notes a use of the tensor's memory by a stream's work, and raises where another stream's use of
// it may not have ended.
inline void note_use(
    const Tensor& tensor, StreamKey stream, uint64_t position, bool is_write, const std::string& op) {
  if (!tensor.defined() || !tensor.is_cuda() || !tensor.has_storage()) return;
  std::lock_guard<std::mutex> guard(memory_lock);
  auto entry = blocks.find(tensor.storage().data());
  if (entry == blocks.end()) return;
  auto& block = entry->second;
  auto is_known = [&](StreamKey other, uint64_t when) {
    return other == stream || knows(stream_clocks[stream], other, when) ||
        knows(host_clock, other, when);
  };
  auto& write = block.last_write;
  TORCH_CHECK(
      !write || is_known(write->first, write->second), "race: ", op, " on ", name_of(stream),
      " uses a tensor ", describe(tensor), " that ", name_of(write->first),
      " may not have written yet; wait for its event");
  if (is_write)
    for (auto& [other, when] : block.last_uses)
      TORCH_CHECK(
          is_known(other, when), "race: ", op, " on ", name_of(stream), " writes a tensor ",
          describe(tensor), " that ", name_of(other), " may not have read yet; wait for its event");
  block.last_uses[stream] = position;
  if (is_write) {
    block.last_uses = {{stream, position}};
    write = {stream, position};
  }
}

// torch's allocator gives freed memory to the next work of its home stream.
inline bool is_ordered_before_free(const Block& block, std::string& fault) {
  for (auto& [stream, position] : block.last_uses) {
    if (stream == block.home || knows(host_clock, stream, position)) continue;
    if (knows(stream_clocks[block.home], stream, position)) continue;
    auto& recorded = block.recorded;
    if (std::find(recorded.begin(), recorded.end(), stream) != recorded.end()) continue;
    fault = "race: memory of " + name_of(block.home) + " was freed while " + name_of(stream) +
        " may still use it; record_stream() is missing";
    return false;
  }
  return true;
}

inline void record_stream(Tensor& tensor, Stream stream) {
  std::lock_guard<std::mutex> guard(memory_lock);
  auto entry = blocks.find(tensor.storage().data());
  if (entry != blocks.end())
    entry->second.recorded.push_back({stream.device_index(), stream.id()});
}

// ---- events
inline double now_ms() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

struct Event {
  StreamKey stream;
  uint64_t position = 0;
  Clock clock;
  std::shared_ptr<std::optional<double>> reached_ms;
};

inline bool has_reached(const Event& event) {
  std::lock_guard<std::recursive_mutex> guard(queue_lock);
  return queues[event.stream].done >= event.position;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return CUDA; }
  Device exchangeDevice(Device device) const override {
    auto before = current_device;
    setDevice(device);
    return {CUDA, before};
  }
  Device getDevice() const override { return {CUDA, current_device}; }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.index() < num_devices, "CUDA error: invalid device ordinal");
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.index() >= 0) current_device = device.index();
  }
  Device with_index(Device device) const {
    return {CUDA, device.has_index() ? device.index() : current_device};
  }
  Stream getStream(Device device) const override {
    device = with_index(device);
    return Stream(Stream::UNSAFE, device, current_streams[device.index()]);
  }
  Stream getDefaultStream(Device device) const override {
    return Stream(Stream::UNSAFE, with_index(device), 0);
  }
  Stream getNewStream(Device device, int) const override {
    std::lock_guard<std::recursive_mutex> guard(queue_lock);
    return Stream(Stream::UNSAFE, with_index(device), next_stream++);
  }
  Stream getStreamFromGlobalPool(Device device, bool) const override {
    return getNewStream(device, 0);
  }
  Stream exchangeStream(Stream stream) const override {
    auto before = getStream(stream.device());
    current_streams[stream.device_index()] = stream.id();
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return num_devices; }

  void record(void** handle, const Stream& on, DeviceIndex, c10::EventFlag) const override {
    if (!*handle) *handle = new Event;
    auto& event = *(Event*)*handle;
    StreamKey stream{on.device_index(), on.id()};
    auto reached_ms = std::make_shared<std::optional<double>>();
    std::lock_guard<std::recursive_mutex> guard(queue_lock);
    auto& queue = queues[stream];
    if (queue.jobs.empty()) {
      *reached_ms = now_ms();
    } else {
      enqueue(stream, [reached_ms] { *reached_ms = now_ms(); });
    }
    event.stream = stream;
    event.position = queue.submitted;
    event.reached_ms = reached_ms;
    std::lock_guard<std::mutex> memory_guard(memory_lock);
    event.clock = stream_clocks[stream];
    event.clock[stream] = std::max(event.clock[stream], event.position);
  }
  void destroyEvent(void* handle, DeviceIndex) const noexcept override { delete (Event*)handle; }
  void block(void* handle, const Stream& on) const override {
    if (!handle) return;
    auto& event = *(Event*)handle;
    StreamKey stream{on.device_index(), on.id()}, other = event.stream;
    // Lazily: the work before the event is done when the waiting stream gets there.
    enqueue(stream, [other, position = event.position] { drain(other, position); });
    std::lock_guard<std::mutex> guard(memory_lock);
    merge(stream_clocks[stream], event.clock);
  }
  // Not a synchronization. The first answer of an event that is not reached is "no"; then the
  // device gets there, as a GPU does that is asked again and again.
  bool queryEvent(void* handle) const override {
    if (!handle) return true;
    auto& event = *(Event*)handle;
    bool is_reached = has_reached(event);
    if (is_reached) {
      std::lock_guard<std::mutex> guard(memory_lock);
      merge(host_clock, event.clock);
    } else {
      drain(event.stream, event.position);
    }
    return is_reached;
  }
  void synchronizeEvent(void* handle) const override {
    report_sync("event", "Event.synchronize");
    if (!handle) return;
    auto& event = *(Event*)handle;
    drain(event.stream, event.position);
    std::lock_guard<std::mutex> guard(memory_lock);
    merge(host_clock, event.clock);
  }
  bool queryStream(const Stream& on) const override {
    StreamKey stream{on.device_index(), on.id()};
    bool is_idle;
    {
      std::lock_guard<std::recursive_mutex> guard(queue_lock);
      is_idle = queues[stream].jobs.empty();
    }
    if (!is_idle) drain(stream);
    return is_idle;
  }
  void synchronizeStream(const Stream& on) const override {
    report_sync("stream", "Stream.synchronize");
    StreamKey stream{on.device_index(), on.id()};
    auto position = submitted(stream);
    drain(stream);
    host_waited(stream, position);
  }
  void synchronizeDevice(DeviceIndex device) const override {
    report_sync("device", "synchronize");
    if (device < 0) device = current_device;
    drain_device(device);
    std::vector<StreamKey> keys;
    {
      std::lock_guard<std::recursive_mutex> guard(queue_lock);
      for (auto& [key, queue] : queues)
        if (key.first == device) keys.push_back(key);
    }
    for (auto key : keys) host_waited(key, submitted(key));
  }
  double elapsedTime(void* first, void* second, DeviceIndex) const override {
    auto &start = *(Event*)first, &end = *(Event*)second;
    TORCH_CHECK(
        has_reached(start) && has_reached(end),
        "CUDA error: device not ready (an event of elapsed_time has not been reached)");
    return **end.reached_ms - **start.reached_ms;
  }
};

}  // namespace pretend
