#include "base/descriptor_watch.h"

#include <fcntl.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <cerrno>

namespace mooncake {

namespace asio = boost::asio;
using Descriptor = asio::posix::stream_descriptor;

struct DescriptorWatch::Impl {
  Impl(const Executor& executor, int fd) : descriptor(executor, fd) {}
  Descriptor descriptor;
};

DescriptorWatch::DescriptorWatch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DescriptorWatch::~DescriptorWatch() = default;

Result<std::shared_ptr<DescriptorWatch>> DescriptorWatch::Open(const Executor& executor,
                                                               int descriptor) {
  const int fd = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return Fail(ErrorId::kNoDescriptors, "to watch another one", errno);
  return std::shared_ptr<DescriptorWatch>(
      new DescriptorWatch(std::make_unique<Impl>(executor, fd)));
}

Task<bool> DescriptorWatch::Readable() {
  boost::system::error_code code;
  co_await impl_->descriptor.async_wait(Descriptor::wait_read,
                                        asio::redirect_error(asio::use_awaitable, code));
  co_return !code;
}

void DescriptorWatch::Close() noexcept {
  boost::system::error_code ignored;
  impl_->descriptor.close(ignored);
}

}  // namespace mooncake
