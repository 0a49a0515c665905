// A native handle, and how it is destroyed.

#ifndef NVSTATE_OWNED_H_
#define NVSTATE_OWNED_H_

#include <functional>
#include <utility>

namespace nvstate {

template <typename Handle>
class Owned {
 public:
  // Takes over a handle that exists: `Owned<T> h(Created(...), destroy)`, with no step between.
  Owned(Handle handle, std::function<void(Handle)> destroy)
      : handle_(handle), destroy_(std::move(destroy)) {}
  ~Owned() {
    try {
      destroy_(handle_);
    } catch (...) {  // the driver has shut down, and has freed everything
    }
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  Handle operator*() const { return handle_; }

 private:
  const Handle handle_;
  const std::function<void(Handle)> destroy_;
};

}  // namespace nvstate

#endif  // NVSTATE_OWNED_H_
