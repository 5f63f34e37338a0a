// What the files of the Python module nfc_gs._core share: the types of arrays, and checks of their sizes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace nb = nanobind;

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Floats = Array<float>;
using MaybeFloats = std::optional<Floats>;

// The memory of an array that may be missing.
template <class T>
T* pointer(const std::optional<Array<T>>& array) {
  return array ? array->data() : nullptr;
}

// Throws if an array does not hold `size` values.
template <class T>
void check(const Array<T>& array, size_t size, const char* name) {
  if (array.size() != size)
    throw std::invalid_argument(std::string(name) + " holds " + std::to_string(array.size()) + " values, expected " +
                                std::to_string(size));
}

template <class T>
void check(const std::optional<Array<T>>& array, size_t size, const char* name) {
  if (array) check(*array, size, name);
}

// Each adds the functions and classes of a subject to the module. Arrays that are written to are marked noconvert: a
// converted copy would swallow the result.
void bind_render(nb::module_& m);
void bind_loss(nb::module_& m);
void bind_optimize(nb::module_& m);
void bind_deformation(nb::module_& m);
