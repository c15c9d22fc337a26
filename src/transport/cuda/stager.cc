#include "transport/cuda/stager.h"

#include <algorithm>

namespace mooncake::cuda {
namespace {

constexpr std::size_t kFreeBuffersMax = 8;

}  // namespace

void Stager::Do(std::function<void()> work) {
  std::shared_ptr<Worker> worker;
  {
    const std::lock_guard lock(mutex_);
    if (!closed_ && !worker_) worker_ = world_.threads.MakeWorker();
    worker = worker_;
  }
  // Not under the lock: a worker that is done with a piece of work destroys it, and the buffer that
  // it held takes the lock, under a lock of the worker's own.
  if (worker) return worker->Add(std::move(work));
  work();
}

template <class T>
Later<T> Stager::Begin(std::function<T()> work) {
  const auto later = std::make_shared<OneShot<T>>();
  Do([self = shared_from_this(), work = std::move(work), later] {
    Post(self->world_.data, [later, value = work()]() mutable { later->Set(std::move(value)); });
  });
  return later;
}

Task<Result<StagingBuffer>> Stager::TakeBuffer() {
  const auto self = shared_from_this();
  std::unique_ptr<OwnedBytes> taken;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      taken = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (!taken) {
    using Made = Result<std::shared_ptr<std::unique_ptr<OwnedBytes>>>;  // can be copied
    const Later<Made> made = Begin<Made>([self]() -> Made {
      MC_TRY(auto buffer, self->gpus_->MakeStaging(kBufferBytes));
      return std::make_shared<std::unique_ptr<OwnedBytes>>(std::move(buffer));
    });
    const Made buffer = co_await made->Get();
    if (!buffer) co_return Fail(buffer.error());
    taken = std::move(**buffer);
  }
  const auto give_back = [weak = weak_from_this()](OwnedBytes* buffer) {
    std::unique_ptr<OwnedBytes> owned(buffer);
    const auto stager = weak.lock();
    if (!stager) return;
    const std::lock_guard lock(stager->mutex_);
    if (!stager->closed_ && stager->free_.size() < kFreeBuffersMax)
      stager->free_.push_back(std::move(owned));
  };
  co_return StagingBuffer(taken.release(), give_back);
}

Later<Result<std::uint32_t>> Stager::Gather(std::vector<LocalRange> from, StagingBuffer into) {
  return Begin<Result<std::uint32_t>>([self = shared_from_this(), from = std::move(from),
                                       into = std::move(into)]() -> Result<std::uint32_t> {
    std::byte* const buffer = into->bytes().data();
    MC_TRY_STATUS(self->Copy(from, buffer, true));
    std::uint64_t length = 0;
    for (const LocalRange& range : from) length += range.length_bytes;
    return self->copy_.Crc32c(buffer, length, 0);
  });
}

Later<Status> Stager::Scatter(StagingBuffer from, std::vector<LocalRange> into,
                              std::uint32_t crc32c, std::shared_ptr<Landing> landing) {
  return Begin<Status>([self = shared_from_this(), from = std::move(from), into = std::move(into),
                        crc32c, landing = std::move(landing)]() -> Status {
    std::byte* const buffer = from->bytes().data();
    std::uint64_t length = 0;
    for (const LocalRange& range : into) length += range.length_bytes;
    if (self->copy_.Crc32c(buffer, length, 0) != crc32c)
      return Fail(ErrorId::kChecksum, "a frame of a staged transfer");
    if (!landing) return self->Copy(into, buffer, false);
    const std::lock_guard lock(landing->mutex);
    if (landing->ended) return Fail(ErrorId::kClosed, "the peer has given this connection up");
    return self->Copy(into, buffer, false);
  });
}

Status Stager::Copy(std::span<const LocalRange> ranges, std::byte* buffer, bool gather) {
  const auto copy = [&](Place place, std::uint64_t length_bytes) -> Status {
    const Place staged{buffer, false};
    buffer += length_bytes;
    if (!place.on_gpu) {
      copy_.Copy(gather ? staged.at : place.at, gather ? place.at : staged.at, length_bytes);
      return {};
    }
    if (!queue_) {
      MC_TRY(queue_, gpus_->MakeQueue("*"));
    }
    return queue_->Add(gather ? staged : place, gather ? place : staged, length_bytes);
  };
  Status copied;
  // Neighbours in one call: each costs microseconds.
  for (std::size_t i = 0; i < ranges.size() && copied;) {
    LocalRange run = ranges[i++];
    while (i < ranges.size() && ranges[i].place.on_gpu == run.place.on_gpu &&
           ranges[i].place.at == run.place.at + run.length_bytes)
      run.length_bytes += ranges[i++].length_bytes;
    copied = copy(run.place, run.length_bytes);
  }
  if (!queue_) return copied;
  const Status finished = queue_->Finish();  // also what was added before one was refused
  if (!finished) queue_ = nullptr;
  return copied ? finished : copied;
}

void Stager::Close() noexcept {
  std::shared_ptr<Worker> worker;
  std::vector<std::unique_ptr<OwnedBytes>> free;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    free = std::exchange(free_, {});
    worker = std::exchange(worker_, nullptr);
  }
  if (!worker) return;
  worker->Add([self = shared_from_this()] { self->queue_ = nullptr; });
  worker->Stop();
}

}  // namespace mooncake::cuda
