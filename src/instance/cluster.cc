#include "instance/cluster.h"

#include <boost/json.hpp>

namespace mooncake {
namespace {

namespace json = boost::json;

constexpr Duration kTimeout = std::chrono::seconds(1);

struct Answers {
  json::array instances;
  json::array unreachable;
  std::size_t left = 0;
  OneShot<bool> all;
};

Task<void> AskOne(InstanceCore& core, Record record, Instant deadline,
                  std::shared_ptr<Answers> answers) {
  json::object missing{{"label", record.identity.label}, {"id", ToString(record.identity.id)}};
  auto connect = core.engine.Connect(std::move(record), deadline);
  Result<PeerPtr> peer = co_await std::move(connect);
  std::string reason;
  if (peer) {
    auto call = (*peer)->Call(Method::kStatus, {}, deadline, {});
    const Result<Reply> reply = co_await std::move(call);
    json::error_code code;
    json::value status = reply ? json::parse(reply->body, code) : json::value();
    if (reply && !code && status.is_object()) {
      answers->instances.push_back(std::move(status));
    } else {
      reason = reply ? "it answers with something else than its status" : reply.error().Text();
    }
  } else {
    reason = peer.error().Text();
  }
  if (!reason.empty()) {
    missing["reason"] = reason;
    answers->unreachable.push_back(std::move(missing));
  }
  if (--answers->left == 0) answers->all.Set(true);
}

}  // namespace

Task<std::string> CollectCluster(InstanceCore& core, Partners& partners, std::string own_status) {
  const Instant deadline = After(core.world.clock.Now(), kTimeout);
  const Status refreshed = co_await partners.Refresh(kTimeout, deadline);
  static_cast<void>(refreshed);  // without the directory: those known from before
  const auto answers = std::make_shared<Answers>();
  answers->instances.push_back(json::parse(own_status));
  std::vector<Record> others;
  for (const Record& record : partners.records()) {
    if (record.identity.id != core.engine.identity().id) others.push_back(record);
  }
  answers->left = others.size();
  for (const Record& record : others)
    Spawn(core.world.control, AskOne(core, record, deadline, answers));
  if (!others.empty()) co_await answers->all.Get();
  co_return json::serialize(json::object{{"instances", std::move(answers->instances)},
                                         {"unreachable", std::move(answers->unreachable)}}) +
      "\n";
}

}  // namespace mooncake
