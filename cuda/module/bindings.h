// What the files of the Python module nfc_gs._core share: the types of arrays, and checks of their shapes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <climits>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "../cpu/kernels/jobs.h"

namespace nb = nanobind;

// Arrays are taken as they are: every argument that is one is marked noconvert, so that nanobind refuses another dtype,
// memory that is not contiguous and another device with a TypeError. A converted copy would swallow results.
template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Floats = Array<float>;
using MaybeFloats = std::optional<Floats>;

// The memory of an array that may be missing.
template <class T>
T* pointer(const std::optional<Array<T>>& array) {
  return array ? array->data() : nullptr;
}

// The longest axis of an array: kernels count rows and columns in ints, and go through them in pieces that may end beyond.
constexpr size_t kMaxAxis = size_t(INT_MAX) - 65536;

inline std::string in_words(const size_t* shape, size_t dimensions) {
  std::string text = "[";
  for (size_t i = 0; i < dimensions; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

template <class Any>
std::string shape_of(const Any& array) {
  std::vector<size_t> shape;
  for (size_t i = 0; i < array.ndim(); ++i) shape.push_back(array.shape(i));
  return in_words(shape.data(), shape.size());
}

// The size of an axis of an array that must have so many dimensions. To be asked before an axis is read: nanobind does
// not check that there is one.
template <class Any>
int axis(const Any& array, size_t which, size_t dimensions, const char* name) {
  if (array.ndim() != dimensions)
    throw std::invalid_argument(std::string(name) + " has shape " + shape_of(array) + ", expected " +
                                std::to_string(dimensions) + " dimensions");
  if (array.shape(which) > kMaxAxis)
    throw std::invalid_argument(std::string(name) + " has shape " + shape_of(array) + ", which is too large");
  return int(array.shape(which));
}

// Throws unless an array has this shape. One that may be missing is checked if it is there.
template <class Any>
void check(const Any& array, std::initializer_list<size_t> shape, const char* name) {
  bool fits = array.ndim() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = array.shape(i) == shape.begin()[i];
  if (!fits)
    throw std::invalid_argument(std::string(name) + " has shape " + shape_of(array) + ", expected " +
                                in_words(shape.begin(), shape.size()));
}

template <class T>
void check(const std::optional<Array<T>>& array, std::initializer_list<size_t> shape, const char* name) {
  if (array) check(*array, shape, name);
}

// Throws unless an array of any shape holds `size` values.
template <class T>
void check_size(const Array<T>& array, size_t size, const char* name) {
  if (array.size() != size)
    throw std::invalid_argument(std::string(name) + " holds " + std::to_string(array.size()) + " values, expected " +
                                std::to_string(size));
}

// Moments of Adam: float, or bfloat16, which NumPy does not know and has as int16.
using Moments = std::variant<Floats, Array<int16_t>>;

// Gives a job its moments, of `size` values each and of one type.
inline void set_moments(nfc::AdamJob& job, const Moments& first, const Moments& second, size_t size) {
  if (first.index() != second.index()) throw std::invalid_argument("first and second differ in type");
  std::visit([&](const auto& array) { check_size(array, size, "first"); }, first);
  std::visit([&](const auto& array) { check_size(array, size, "second"); }, second);
  if (const Floats* floats = std::get_if<Floats>(&first)) {
    job.first = floats->data(), job.second = std::get<Floats>(second).data();
  } else {
    job.first16 = reinterpret_cast<nfc::BFloat16*>(std::get<Array<int16_t>>(first).data());
    job.second16 = reinterpret_cast<nfc::BFloat16*>(std::get<Array<int16_t>>(second).data());
  }
}

// An argument that is an array, or a list of arrays.
inline auto array(const char* name) { return nb::arg(name).noconvert(); }

// Each adds the functions and classes of a subject to the module.
void bind_render(nb::module_& m);
void bind_loss(nb::module_& m);
void bind_metrics(nb::module_& m);
void bind_optimize(nb::module_& m);
void bind_deformation(nb::module_& m);
