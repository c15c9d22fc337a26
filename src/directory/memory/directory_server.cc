#include "directory/memory/directory_server.h"

#include "directory/record.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

// A process whose connection broke may only have lost the connection: it has this long to come
// back.
constexpr Duration kGraceAfterDisconnect = std::chrono::seconds(2);
constexpr Duration kLeaseMax = std::chrono::minutes(10);

}  // namespace

void DirectoryServer::AddTo(RpcRouter& router) {
  const auto self = shared_from_this();
  router.Add(Method::kRegister, [self](RpcCall& call, Frame request) -> Task<Result<Reply>> {
    co_return self->Register(call, request);
  });
  router.Add(Method::kWithdraw, [self](RpcCall&, Frame request) -> Task<Result<Reply>> {
    co_return self->Withdraw(request);
  });
  router.Add(Method::kListRecords, [self](RpcCall&, Frame request) -> Task<Result<Reply>> {
    co_return self->List(request);
  });
}

Result<Reply> DirectoryServer::Register(RpcCall& call, const Frame& request) {
  pb::RegisterRequest body;
  if (!Parse(request.body, body)) return Fail(ErrorId::kBadFrame, "RegisterRequest");
  Record record = FromProto(body.record());
  const InstanceId id = record.identity.id;
  if (id.empty()) return Fail(ErrorId::kBadFrame, "a record without an id");
  const Duration ttl = std::min<Duration>(std::chrono::milliseconds(body.ttl_ms()), kLeaseMax);
  MC_TRY_STATUS(table_.Register(std::move(record), After(world_.clock.Now(), ttl)));
  if (std::weak_ptr<RpcConnection>& bound = bound_[id]; bound.lock() != call.connection()) {
    bound = call.connection();
    call.connection()->OnClose([weak = weak_from_this(), id, connection = bound](const Error&) {
      if (const auto self = weak.lock()) self->Disconnected(id, connection);
    });
  }
  Sweep();
  return MakeReply(pb::Empty());
}

void DirectoryServer::Disconnected(const InstanceId& id,
                                   const std::weak_ptr<RpcConnection>& connection) {
  const auto found = bound_.find(id);
  if (found == bound_.end() || found->second.owner_before(connection) ||
      connection.owner_before(found->second))
    return;
  bound_.erase(found);
  table_.Shorten(id, After(world_.clock.Now(), kGraceAfterDisconnect));
  Sweep();
}

Result<Reply> DirectoryServer::Withdraw(const Frame& request) {
  pb::WithdrawRequest body;
  if (!Parse(request.body, body)) return Fail(ErrorId::kBadFrame, "WithdrawRequest");
  table_.Withdraw({body.id_high(), body.id_low()}, world_.clock.WallNow());
  return MakeReply(pb::Empty());
}

Result<Reply> DirectoryServer::List(const Frame& request) {
  pb::ListRecordsRequest body;
  if (!Parse(request.body, body)) return Fail(ErrorId::kBadFrame, "ListRecordsRequest");
  Sweep();
  pb::ListRecordsReply reply;
  for (const Record& record : table_.List(body.cluster())) *reply.add_records() = ToProto(record);
  for (const Obituary& obituary : table_.gone()) {
    if (obituary.record.cluster != body.cluster()) continue;
    pb::Obituary& gone = *reply.add_gone();
    *gone.mutable_record() = ToProto(obituary.record);
    gone.set_cause(obituary.cause);
    gone.set_gone_unix_ms(static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(obituary.gone.time_since_epoch())
            .count()));
  }
  Reply result = MakeReply(reply);
  if (result.body.size() > kBodyBytesMax)
    return Fail(ErrorId::kFrameTooLarge, "the list of records");
  return result;
}

void DirectoryServer::Sweep() {
  const Instant next = table_.Expire(world_.clock.Now(), world_.clock.WallNow());
  if (next == kNever) {
    timer_->Cancel();
    return;
  }
  timer_->At(next, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Sweep();
  });
}

}  // namespace mooncake
