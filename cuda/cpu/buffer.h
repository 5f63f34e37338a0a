// Memory that is used again from call to call.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace nfc {

// An array of uninitialised values, aligned to a cache line, which only grows.
template <class T>
class Buffer {
 public:
  T* reserve(size_t count) {
    if (count > capacity_) {
      const size_t room = count + count / 4 + 64;
      data_.reset(static_cast<T*>(::operator new(room * sizeof(T), std::align_val_t(64))));
      capacity_ = room;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  size_t capacity_ = 0;
};

}  // namespace nfc
