// Fields of JSON objects that others wrote.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <string_view>

namespace mooncake {

/// Empty where there is no such field, or no text in it.
[[nodiscard]] inline std::string TextOf(const boost::json::object& object, std::string_view key) {
  const boost::json::value* const value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace mooncake
