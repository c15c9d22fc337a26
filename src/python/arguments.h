// What Python callers pass where addresses and lengths are meant: any sequence of integers, or an
// array of 64-bit integers, which is read where it lies.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace mooncake::python {

/// Addresses or lengths for the length of one call. Valid without the GIL: a sequence has been
/// copied, an array is held.
class Numbers {
 public:
  Numbers() = default;
  Numbers(Numbers&&) = default;
  Numbers& operator=(Numbers&&) = default;

  /// False: neither a sequence nor an array, or an element that is no integer.
  [[nodiscard]] bool Load(pybind11::handle source);
  /// nullopt: an integer that is negative or needs more than 64 bits, so the address of nothing.
  [[nodiscard]] std::optional<std::span<const std::uint64_t>> values() const noexcept {
    if (out_of_range_) return std::nullopt;
    return values_;
  }

 private:
  bool LoadArray(pybind11::handle source);
  bool LoadSequence(pybind11::handle source);
  bool Add(PyObject* item);

  std::vector<std::uint64_t> copied_;
  std::optional<pybind11::buffer_info> array_;
  std::span<const std::uint64_t> values_;
  bool out_of_range_ = false;
};

/// One address or length: anything with __index__. Out of 64 bits: nullopt.
struct Number {
  std::optional<std::uint64_t> value;
};

}  // namespace mooncake::python

namespace pybind11::detail {

template <>
struct type_caster<mooncake::python::Numbers> {
  PYBIND11_TYPE_CASTER(mooncake::python::Numbers, const_name("List[int]"));
  bool load(handle source, bool) { return value.Load(source); }
};

template <>
struct type_caster<mooncake::python::Number> {
  PYBIND11_TYPE_CASTER(mooncake::python::Number, const_name("int"));
  bool load(handle source, bool);
};

}  // namespace pybind11::detail
