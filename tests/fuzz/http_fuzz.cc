// The HTTP server's half of the common port, fed with bytes by a client that then goes away.
#include <boost/asio/io_context.hpp>

#include "base/real_world.h"
#include "fuzzer.h"
#include "wire/http.h"

namespace {

using namespace mooncake;

// Gives the input in pieces whose sizes the input itself draws, then ends.
class InputStream final : public Stream {
 public:
  explicit InputStream(Bytes input) : input_(input) {}
  Task<Result<std::size_t>> ReadSome(MutableBytes into) override {
    if (input_.empty() || closed_) co_return Fail(ErrorId::kConnectionClosed, {});
    const std::size_t piece = 1 + static_cast<std::size_t>(input_[0]) % 97;
    const std::size_t count = std::min({piece, input_.size(), into.size()});
    std::copy_n(input_.begin(), count, into.begin());
    input_ = input_.subspan(count);
    co_return count;
  }
  Task<Result<std::size_t>> ReadSomeV(std::span<const MutableBytes> into) override {
    auto read = ReadSome(into.front());
    co_return co_await std::move(read);
  }
  Task<Status> Write(std::span<const Bytes>) override {
    if (closed_) co_return Fail(ErrorId::kClosed, {});
    co_return Status{};
  }
  void Close() noexcept override { closed_ = true; }
  Status MoveTo(const Executor&) override { return {}; }
  std::unique_ptr<ThreadStream> TakeForThreads() override { return nullptr; }
  void ExpectMore() noexcept override {}
  Endpoint local() const override { return {}; }
  Endpoint remote() const override { return {}; }

 private:
  Bytes input_;
  bool closed_ = false;
};

}  // namespace

MOONCAKE_FUZZER(http) {
  static RealWorld real;
  boost::asio::io_context loop;
  const HttpHandler handler = [](HttpExchange& exchange) -> Task<void> {
    MC_FUZZ_CHECK(exchange.request().body.size() <= 10'000);
    auto respond = exchange.Respond(200, "text/plain", exchange.request().path(), {});
    static_cast<void>(co_await std::move(respond));
  };
  HttpLimits limits;
  limits.body_bytes_max = 10'000;
  limits.header_bytes_max = 4'000;
  const auto serve = [&]() -> Task<void> {
    auto reader = std::make_unique<BufferedReader>(std::make_shared<InputStream>(input));
    auto http = ServeHttp(real.world(), loop.get_executor(), std::move(reader), handler, limits);
    co_await std::move(http);
  };
  Spawn(loop.get_executor(), serve());
  loop.run();
  static_cast<void>(ParseHttpUrl(TextOf(input)));
}
