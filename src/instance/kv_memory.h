// The KV memory of one instance: one mappable region, in which each layer has its pages one after
// another. Page P of layer L begins at (L * pages + P) * page_bytes.
#pragma once

#include <cstdint>

#include "engine/engine.h"
#include "kv/page_pool.h"
#include "model/model_shape.h"

namespace mooncake {

class KvMemory {
 public:
  /// Takes as many pages as fit into `budget_bytes`, at least one. kKvFull if not even one does;
  /// else as Engine::Allocate. The region is unlisted: only who is given its key may write there.
  [[nodiscard]] static Result<KvMemory> Allocate(Engine& engine, const ScaledShape& shape,
                                                 std::uint64_t budget_bytes);

  [[nodiscard]] const RegionInfo& region() const noexcept { return region_; }
  [[nodiscard]] std::uint32_t pages() const noexcept { return pages_; }
  [[nodiscard]] std::uint64_t layer_stride_bytes() const noexcept {
    return pages_ * shape_.page_bytes();
  }
  [[nodiscard]] std::uint64_t Offset(std::uint32_t layer, PageNumber page) const noexcept {
    return layer * layer_stride_bytes() + IndexOf(page) * shape_.page_bytes();
  }
  [[nodiscard]] std::byte* At(std::uint32_t layer, PageNumber page) const noexcept {
    return reinterpret_cast<std::byte*>(region_.base) + Offset(layer, page);
  }

 private:
  KvMemory(ScaledShape shape, RegionInfo region, std::uint32_t pages)
      : shape_(std::move(shape)), region_(std::move(region)), pages_(pages) {}
  ScaledShape shape_;
  RegionInfo region_;
  std::uint32_t pages_;
};

}  // namespace mooncake
