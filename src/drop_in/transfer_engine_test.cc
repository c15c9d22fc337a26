#include "drop_in/transfer_engine.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <thread>

#include "base/log.h"
#include "base/test_support.h"

namespace mooncake::drop_in {
namespace {

constexpr std::size_t kBytes = 1 << 20;

std::uint64_t AddressOf(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }

// An engine of this host with a buffer that is registered.
struct Node {
  explicit Node(std::byte fill = {}) : memory(kBytes, fill) {
    EXPECT_EQ(engine.Initialize("127.0.0.1", "P2PHANDSHAKE", "rdma", ""), kOk);
    EXPECT_EQ(engine.RegisterMemory(base(), kBytes), kOk);
  }
  [[nodiscard]] std::uint64_t base() const { return AddressOf(memory.data()); }
  std::vector<std::byte> memory;
  TransferEngine engine;
};

class DropIn : public testing::Test {
 protected:
  // How many warnings there were since the last call; each must be of this error.
  static std::size_t Told(std::string_view id) {
    const std::vector<std::string> warnings = TakeWarnings();
    for (const std::string& warning : warnings)
      EXPECT_NE(warning.find(id), std::string::npos) << warning;
    return warnings.size();
  }
};

TEST_F(DropIn, WhatIsWrittenIsInThePeersMemoryAndCanBeRead) {
  Node here(std::byte{7});
  Node there;
  const std::string name = there.engine.SegmentName();
  EXPECT_EQ(name, "127.0.0.1:" + std::to_string(there.engine.rpc_port()));
  EXPECT_EQ(here.engine.TransferSync(name, here.base(), there.base() + 100, 5000, Opcode::kWrite),
            kOk);
  EXPECT_EQ(there.memory[99], std::byte{0});
  EXPECT_EQ(there.memory[100], std::byte{7});
  EXPECT_EQ(there.memory[5099], std::byte{7});
  EXPECT_EQ(there.memory[5100], std::byte{0});
  there.memory[100] = std::byte{9};
  EXPECT_EQ(here.engine.TransferSync(name, here.base() + 10, there.base() + 100, 1, Opcode::kRead),
            kOk);
  EXPECT_EQ(here.memory[10], std::byte{9});
}

TEST_F(DropIn, ABatchTouchesExactlyItsRanges) {
  Node here(std::byte{1});
  Node there;
  std::vector<std::uint64_t> local, remote, lengths;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    local.push_back(here.base() + i * 64);
    remote.push_back(there.base() + (999 - i) * 1024);
    lengths.push_back(i % 10 == 0 ? 0 : 48);
  }
  ASSERT_EQ(here.engine.TransferSync(there.engine.SegmentName(), {local, remote, lengths},
                                     Opcode::kWrite),
            kOk);
  for (std::size_t i = 0; i < kBytes; ++i) {
    const std::uint64_t range = 999 - i / 1024;
    const bool written = i / 1024 < 1000 && range % 10 != 0 && i % 1024 < 48;
    ASSERT_EQ(there.memory[i], std::byte(written)) << i;
  }
}

TEST_F(DropIn, WhatNobodyRegisteredFailsAndMovesNothing) {
  Node here(std::byte{1});
  Node there;
  const std::string name = there.engine.SegmentName();
  std::array<std::byte, 64> stranger{};
  EXPECT_LT(
      here.engine.TransferSync(name, AddressOf(stranger.data()), there.base(), 64, Opcode::kWrite),
      0);
  EXPECT_EQ(Told("E307"), 1U);
  EXPECT_LT(
      here.engine.TransferSync(name, here.base(), AddressOf(stranger.data()), 64, Opcode::kWrite),
      0);
  EXPECT_LT(
      here.engine.TransferSync(name, here.base(), there.base() + kBytes - 63, 64, Opcode::kWrite),
      0);
  EXPECT_LT(here.engine.TransferSync(name, here.base(), UINT64_MAX - 8, 64, Opcode::kRead), 0);
  EXPECT_LT(here.engine.TransferSync(name, 1, there.base(), UINT64_MAX, Opcode::kRead), 0);
  EXPECT_EQ(Told("E304"), 4U);
  const std::array<std::uint64_t, 2> two = {here.base(), here.base()};
  const std::array<std::uint64_t, 1> one = {there.base()};
  EXPECT_EQ(here.engine.TransferSync(name, {two, one, one}, Opcode::kWrite), kFailed);
  EXPECT_EQ(Told("E308"), 1U);
  EXPECT_EQ(there.memory, std::vector<std::byte>(kBytes));
}

TEST_F(DropIn, MemoryIsRegisteredOnceAndAsAWhole) {
  Node node;
  std::vector<std::byte> more(kBytes);
  EXPECT_EQ(node.engine.RegisterMemory(node.base(), kBytes), kAddressOverlap);
  EXPECT_EQ(node.engine.RegisterMemory(node.base() + 100, 8), kAddressOverlap);
  EXPECT_LT(node.engine.RegisterMemory(AddressOf(more.data()), 0), 0);
  EXPECT_LT(node.engine.RegisterMemory(0, 8), 0);
  EXPECT_EQ(node.engine.UnregisterMemory(node.base() + 1), kAddressNotRegistered);
  const std::array<std::uint64_t, 2> addresses = {AddressOf(more.data()), node.base()};
  const std::array<std::uint64_t, 2> lengths = {kBytes, kBytes};
  EXPECT_EQ(node.engine.BatchRegisterMemory(addresses, lengths), kAddressOverlap);
  EXPECT_EQ(node.engine.UnregisterMemory(addresses[0]), kAddressNotRegistered) << "rolled back";
  EXPECT_EQ(node.engine.RegisterMemory(addresses[0], kBytes), kOk);
  EXPECT_EQ(node.engine.BatchUnregisterMemory(addresses), kOk);
  EXPECT_EQ(node.engine.BatchUnregisterMemory(addresses), kAddressNotRegistered);
  EXPECT_EQ(TakeWarnings().size(), 8U) << "one for each that failed";
}

TEST_F(DropIn, MemoryThatThePeerRegistersLaterOrAnewIsFound) {
  Node here(std::byte{3});
  Node there;
  const std::string name = there.engine.SegmentName();
  ASSERT_EQ(here.engine.TransferSync(name, here.base(), there.base(), 8, Opcode::kWrite), kOk);
  std::vector<std::byte> later(4096);
  ASSERT_EQ(there.engine.RegisterMemory(AddressOf(later.data()), 4096), kOk);
  EXPECT_EQ(
      here.engine.TransferSync(name, here.base(), AddressOf(later.data()), 4096, Opcode::kWrite),
      kOk);
  EXPECT_EQ(later[4095], std::byte{3});
  ASSERT_EQ(there.engine.UnregisterMemory(there.base()), kOk);
  EXPECT_LT(here.engine.TransferSync(name, here.base(), there.base(), 8, Opcode::kWrite), 0);
  EXPECT_EQ(Told("E304"), 1U);
  ASSERT_EQ(there.engine.RegisterMemory(there.base(), kBytes), kOk);
  EXPECT_EQ(here.engine.TransferSync(name, here.base(), there.base() + 64, 8, Opcode::kWrite), kOk);
  EXPECT_EQ(there.memory[71], std::byte{3});
}

TEST_F(DropIn, AnAsynchronousTransferFindsMemoryThatWasRegisteredAnew) {
  Node here(std::byte{3});
  Node there;
  const std::uint64_t local = here.base();
  const std::uint64_t remote = there.base();
  const std::uint64_t length = 64;
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t id = here.engine.TransferAsync(
        there.engine.SegmentName(), {{&local, 1}, {&remote, 1}, {&length, 1}}, Opcode::kWrite);
    ASSERT_NE(id, 0U);
    EXPECT_EQ(here.engine.WaitAll({&id, 1}), kOk) << round;
    EXPECT_EQ(there.memory[63], std::byte{3});
    ASSERT_EQ(there.engine.UnregisterMemory(there.base()), kOk);
    there.memory[63] = {};
    ASSERT_EQ(there.engine.RegisterMemory(there.base(), kBytes), kOk);
  }
}

TEST_F(DropIn, UnregisteringManyIsAllOrNothing) {
  Node node;
  const std::uint64_t managed = node.engine.AllocateManagedBuffer(4 << 20);
  const std::array<std::uint64_t, 2> twice = {node.base(), node.base()};
  const std::array<std::uint64_t, 2> not_its_own = {node.base(), managed};
  EXPECT_EQ(node.engine.BatchUnregisterMemory(twice), kAddressNotRegistered);
  EXPECT_EQ(node.engine.BatchUnregisterMemory(not_its_own), kAddressNotRegistered);
  EXPECT_EQ(Told("E304"), 2U);
  EXPECT_TRUE(node.engine.IsRegistered(node.base(), kBytes));
}

TEST_F(DropIn, NothingIsCopiedWithinAnEngineOnceItsMemoryIsUnregistered) {
  constexpr std::size_t kLarge = 32 << 20;
  std::vector<std::byte> from(kLarge, std::byte{1});
  std::vector<std::byte> to(kLarge);
  TransferEngine engine;
  ASSERT_EQ(engine.Initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""), kOk);
  ASSERT_EQ(engine.RegisterMemory(AddressOf(from.data()), kLarge), kOk);
  ASSERT_EQ(engine.RegisterMemory(AddressOf(to.data()), kLarge), kOk);
  std::atomic<int> copies = 0;
  std::thread copier([&] {
    while (engine.TransferSync(engine.SegmentName(), AddressOf(from.data()), AddressOf(to.data()),
                               kLarge, Opcode::kWrite) == kOk)
      copies += 1;
  });
  while (copies < 3) std::this_thread::yield();
  ASSERT_EQ(engine.UnregisterMemory(AddressOf(to.data())), kOk);
  std::fill(to.begin(), to.end(), std::byte{});
  copier.join();
  EXPECT_EQ(std::count(to.begin(), to.end(), std::byte{}), static_cast<std::ptrdiff_t>(kLarge));
  EXPECT_EQ(Told("E307"), 1U);
}

TEST_F(DropIn, ADeadPeerFailsQuickly) {
  Node here(std::byte{4});
  auto there = std::make_unique<Node>();
  const std::string name = there->engine.SegmentName();
  ASSERT_EQ(here.engine.SendProbe(name), kOk);
  ASSERT_EQ(here.engine.TransferSync(name, here.base(), there->base(), 8, Opcode::kWrite), kOk);
  const std::uint64_t address = there->base();
  there = nullptr;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_LT(here.engine.TransferSync(name, here.base(), address, 8, Opcode::kWrite), 0);
  EXPECT_LT(here.engine.SendProbe(name), 0);
  EXPECT_LT(here.engine.SendProbe("127.0.0.1:1"), 0);
  EXPECT_LT(here.engine.SendProbe("no such name:x"), 0);
  EXPECT_EQ(here.engine.TransferAsync("127.0.0.1:1", {}, Opcode::kWrite), 0U);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_EQ(TakeWarnings().size(), 5U) << "one for each that failed";
}

TEST_F(DropIn, AsynchronousTransfersEndOnce) {
  Node here(std::byte{5});
  Node there;
  const std::string name = there.engine.SegmentName();
  std::vector<std::uint64_t> ids;
  for (std::uint64_t i = 0; i < 20; ++i) {
    const std::uint64_t local = here.base();
    const std::uint64_t remote = there.base() + i * 4096;
    const std::uint64_t length = 4096;
    ids.push_back(
        here.engine.TransferAsync(name, {{&local, 1}, {&remote, 1}, {&length, 1}}, Opcode::kWrite));
    EXPECT_NE(ids.back(), 0U);
  }
  const std::uint64_t last = ids.back();
  ids.pop_back();
  EXPECT_EQ(here.engine.WaitAll(ids), kOk);
  EXPECT_EQ(there.memory[4096], std::byte{5});
  EXPECT_LT(here.engine.WaitAll(ids), 0) << "forgotten";
  int status = 0;
  while ((status = here.engine.CheckStatus(last)) == kUnderWay) std::this_thread::yield();
  EXPECT_EQ(status, kDone);
  EXPECT_EQ(here.engine.CheckStatus(last), kBroken);
  EXPECT_EQ(here.engine.CheckStatus(12345), kBroken);
  EXPECT_EQ(Told("E308"), 19U);
}

TEST_F(DropIn, AnEngineEndsWithTransfersInFlight) {
  Node there;
  Node here(std::byte{5});
  const std::string name = there.engine.SegmentName();
  for (int i = 0; i < 50; ++i) {
    const std::uint64_t local = here.base();
    const std::uint64_t remote = there.base();
    const std::uint64_t length = kBytes;
    EXPECT_NE(
        here.engine.TransferAsync(name, {{&local, 1}, {&remote, 1}, {&length, 1}}, Opcode::kWrite),
        0U);
  }
}

TEST_F(DropIn, NotificationsComeAfterTheBytesOnce) {
  Node here(std::byte{6});
  Node there;
  const std::string name = there.engine.SegmentName();
  const TransferNotify notify{"layer", "17"};
  ASSERT_EQ(here.engine.TransferSync(name, here.base(), there.base(), 0, Opcode::kWrite, &notify),
            kOk);
  ASSERT_EQ(here.engine.TransferSync(name, here.base(), there.base(), 64, Opcode::kWrite, &notify),
            kOk);
  ASSERT_EQ(here.engine.SendNotify(name, {"alone", ""}), kOk);
  const std::vector<TransferNotify> told = there.engine.TakeNotifies();
  ASSERT_EQ(told.size(), 3U);
  EXPECT_EQ(told[1].name, "layer");
  EXPECT_EQ(told[1].message, "17");
  EXPECT_EQ(told[2].name, "alone");
  EXPECT_EQ(there.memory[63], std::byte{6});
  EXPECT_TRUE(there.engine.TakeNotifies().empty());
}

TEST_F(DropIn, ManagedBuffersAreRegisteredAndReturned) {
  Node here;
  Node there;
  const std::uint64_t from = here.engine.AllocateManagedBuffer(1000);
  const std::uint64_t large = there.engine.AllocateManagedBuffer(5 << 20);
  ASSERT_NE(from, 0U);
  ASSERT_NE(large, 0U);
  std::memset(reinterpret_cast<void*>(from), 8, 1000);
  EXPECT_EQ(
      here.engine.TransferSync(there.engine.SegmentName(), from, large + 100, 1000, Opcode::kWrite),
      kOk);
  EXPECT_EQ(reinterpret_cast<const char*>(large)[1099], 8);
  EXPECT_EQ(here.engine.FreeManagedBuffer(from + 64), kAddressNotRegistered);
  EXPECT_EQ(here.engine.UnregisterMemory(from), kAddressNotRegistered) << "it is not the client's";
  EXPECT_EQ(here.engine.FreeManagedBuffer(from), kOk);
  EXPECT_EQ(here.engine.FreeManagedBuffer(from), kAddressNotRegistered);
  EXPECT_EQ(here.engine.AllocateManagedBuffer(0), 0U);
  EXPECT_EQ(here.engine.AllocateManagedBuffer(UINT64_MAX - 10), 0U);
  EXPECT_EQ(TakeWarnings().size(), 5U) << "one for each that failed";
}

TEST_F(DropIn, AnEngineIsItsOwnPeer) {
  Node node(std::byte{1});
  node.memory[0] = std::byte{2};
  EXPECT_EQ(node.engine.TransferSync(node.engine.SegmentName(), node.base(), node.base() + 100, 1,
                                     Opcode::kWrite),
            kOk);
  EXPECT_EQ(node.memory[100], std::byte{2});
  EXPECT_LT(node.engine.TransferSync(node.engine.SegmentName(), node.base(), 16, 1, Opcode::kWrite),
            0);
  EXPECT_EQ(Told("E307"), 1U);
  EXPECT_EQ(node.engine.FirstBufferAddress(node.engine.SegmentName()), node.base());
  Node other;
  EXPECT_EQ(other.engine.FirstBufferAddress(node.engine.SegmentName()), node.base());
}

TEST_F(DropIn, ManyThreadsShareAnEngine) {
  Node here(std::byte{1});
  Node there;
  const std::string name = there.engine.SegmentName();
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 20; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < 50; ++i) {
        const std::uint64_t offset = (t * 50 + i) * 1000;
        if (here.engine.TransferSync(name, here.base() + offset, there.base() + offset, 1000,
                                     Opcode::kWrite) != kOk)
          failures += 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(there.memory[999'999], std::byte{1});
  EXPECT_EQ(there.memory[1'000'000], std::byte{0});
}

TEST_F(DropIn, AnEngineThatIsNotInitializedFails) {
  TransferEngine engine;
  EXPECT_EQ(engine.rpc_port(), -1);
  EXPECT_EQ(engine.RegisterMemory(4096, 4096), kFailed);
  EXPECT_EQ(engine.TransferSync("127.0.0.1:1", 0, 0, 0, Opcode::kRead), kFailed);
  EXPECT_EQ(engine.AllocateManagedBuffer(64), 0U);
  EXPECT_EQ(Told("E020"), 3U);
  EXPECT_LT(engine.Initialize("127.0.0.1", "gopher://x", "tcp", ""), 0);
  EXPECT_EQ(Told("E002"), 1U);
  EXPECT_EQ(engine.Initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""), kOk) << "after a failure";
  EXPECT_LT(engine.Initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""), 0);
  EXPECT_EQ(Told("E020"), 1U);
}

TEST_F(DropIn, AForkedChildsCopyFailsAndTheParentGoesOn) {
  Node here(std::byte{1});
  Node there;
  const std::string name = there.engine.SegmentName();
  const pid_t child = ::fork();
  if (child == 0) {
    const bool fails =
        here.engine.TransferSync(name, here.base(), there.base(), 8, Opcode::kWrite) == kFailed;
    here.engine.~TransferEngine();
    ::_exit(fails ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(here.engine.TransferSync(name, here.base(), there.base(), 8, Opcode::kWrite), kOk);
}

}  // namespace
}  // namespace mooncake::drop_in
