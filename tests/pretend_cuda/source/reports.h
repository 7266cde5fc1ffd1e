// What the device reports: counts of operators and copies, host-device synchronizations, faults.
#pragma once
#include <torch/extension.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace pretend {

// Python's function for each synchronization: (kind, operator, detail) -> false where torch's
// synchronization debug mode is "error".
inline py::object* sync_listener = nullptr;

// Taken with the GIL held (Python frees a tensor) and without, so whoever holds it never waits for
// the GIL.
inline std::mutex report_lock;
inline std::map<std::string, uint64_t> launches;                       // by operator
inline std::map<std::string, std::pair<uint64_t, uint64_t>> copies;    // number and bytes by kind
inline std::vector<std::string> deferred_faults;

inline void count_launch(const std::string& op) {
  std::lock_guard<std::mutex> guard(report_lock);
  launches[op]++;
}

inline void count_copy(const std::string& kind, size_t num_bytes) {
  std::lock_guard<std::mutex> guard(report_lock);
  auto& [number, bytes] = copies[kind];
  number++;
  bytes += num_bytes;
}

// The host waits for the device. Call it without any lock of this extension: it takes the GIL.
inline void report_sync(const char* kind, const std::string& op, const std::string& detail = "") {
  if (!sync_listener) return;
  bool is_allowed;
  {
    py::gil_scoped_acquire gil;
    is_allowed = (*sync_listener)(kind, op, detail).cast<bool>();
  }
  TORCH_CHECK(is_allowed, "called a synchronizing CUDA operation");
}

// A fault noticed where nothing may be thrown (memory is freed): the next operator raises it, as
// CUDA reports asynchronous errors.
inline void defer_fault(std::string message) {
  std::lock_guard<std::mutex> guard(report_lock);
  deferred_faults.push_back(std::move(message));
}

inline void raise_deferred_fault() {
  std::string message;
  {
    std::lock_guard<std::mutex> guard(report_lock);
    if (deferred_faults.empty()) return;
    message = deferred_faults.front();
    deferred_faults.erase(deferred_faults.begin());
  }
  TORCH_CHECK(false, message);
}

inline std::string describe(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sizes() << " " << tensor.dtype();
  return text.str();
}

}  // namespace pretend
