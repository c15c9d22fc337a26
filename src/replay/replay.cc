#include "replay/replay.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "base/await.h"
#include "model/model_shape.h"
#include "model/reference.h"
#include "view/fetch_cluster.h"

namespace mooncake {
namespace {

namespace json = boost::json;

// Takes the events of a stream apart: "data: {…}\n\n".
class EventReader {
 public:
  explicit EventReader(std::function<void(const json::object&)> on_event)
      : on_event_(std::move(on_event)) {}
  void Feed(std::string_view data) {
    buffer_ += data;
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = buffer_.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      std::string_view line(buffer_.data() + begin, end - begin);
      constexpr std::string_view kData = "data: ";
      if (!line.starts_with(kData)) continue;
      line.remove_prefix(kData.size());
      if (line == "[DONE]") {
        done_ = true;
        continue;
      }
      json::error_code code;
      const json::value value = json::parse(line, code);
      if (!code && value.is_object()) on_event_(value.get_object());
    }
    buffer_.erase(0, begin);
  }
  [[nodiscard]] bool done() const noexcept { return done_; }
  [[nodiscard]] const std::string& rest() const noexcept { return buffer_; }

 private:
  std::function<void(const json::object&)> on_event_;
  std::string buffer_;
  bool done_ = false;
};

std::uint32_t NumberAt(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  json::error_code code;
  return value == nullptr ? 0 : value->to_number<std::uint32_t>(code);
}

// "E502 the instance has …" of an error body.
std::string ErrorText(std::string_view body, int status) {
  json::error_code code;
  const json::value value = json::parse(body, code);
  if (!code && value.is_object() && value.get_object().contains("error")) {
    const json::value& error = value.get_object().at("error");
    if (error.is_object() && error.get_object().contains("message")) {
      const json::value& message = error.get_object().at("message");
      if (message.is_string()) return std::string(message.get_string());
    }
  }
  return fmt::format("HTTP status {}", status);
}

// The model that an instance says it serves: "llama-3-8b/64/16", name, bytes of a row, tokens of a
// page.
Result<ScaledShape> ShapeOf(const std::string& model_id) {
  const std::size_t first = model_id.find('/');
  const std::size_t second = model_id.find('/', first + 1);
  if (second == std::string::npos)
    return Fail(ErrorId::kNotAnInstance, fmt::format("\"{}\" names no model", model_id));
  MC_TRY(const ModelShape model, FindModel(model_id.substr(0, first)));
  MC_TRY(ScaledShape shape, Scale(model, 1, 1));
  shape.row_bytes =
      static_cast<std::uint32_t>(std::strtoul(model_id.c_str() + first + 1, nullptr, 10));
  shape.page_tokens =
      static_cast<std::uint32_t>(std::strtoul(model_id.c_str() + second + 1, nullptr, 10));
  if (shape.row_bytes == 0 || shape.row_bytes % kRowUnitBytes != 0 || shape.page_tokens == 0) {
    return Fail(ErrorId::kNotAnInstance, fmt::format("\"{}\" is no shape of a model", model_id));
  }
  return shape;
}

class Replayer {
 public:
  Replayer(World& world, const Trace& trace, const ReplayOptions& options, ScaledShape shape,
           std::string model_name)
      : world_(world),
        trace_(trace),
        options_(options),
        shape_(shape),
        model_name_(std::move(model_name)),
        reference_(SyntheticModel(shape)),
        idle_clients_(options.targets.size()) {}

  Task<ReplayResult> Run() {
    co_await TakeSample();
    const std::optional<ClusterSample> first = now_;
    begin_ = last_answer_ = world_.clock.Now();
    const std::unique_ptr<Timer> ticker = world_.clock.MakeTimer(world_.control);
    std::function<void()> tick = [&] {
      Tell(world_.clock.Now() - begin_);
      ticker->At(After(world_.clock.Now(), kTick), tick);
    };
    tick();
    if (options_.sample_interval > Duration::zero()) {
      sampling_ = true;
      Spawn(world_.control, KeepSampling());
    }
    const std::size_t sent = co_await SendAll();
    while (running_ > 0 || checking_ > 0) co_await freed_.Wait();
    ticker->Cancel();
    ended_ = true;
    while (sampling_) co_await freed_.Wait();
    co_await TakeSample();
    const Duration took = last_answer_ - begin_;
    Tell(took);
    for (auto& clients : idle_clients_) clients.clear();
    ReplayResult result{std::move(report_), took, sent, {}};
    if (first && now_) result.moved = Since(first->view, now_->view);
    co_return result;
  }

  void Stop() { checker_->Stop(); }

 private:
  static constexpr Duration kTick = std::chrono::milliseconds(200);

  void Tell(Duration elapsed) const {
    if (!options_.progress) return;
    options_.progress(
        {report_, elapsed, running_, before_ ? &*before_ : nullptr, now_ ? &*now_ : nullptr});
  }

  // Returns how many; each runs by itself.
  Task<std::size_t> SendAll() {
    const Instant end =
        options_.duration > Duration::zero() ? After(begin_, options_.duration) : kNever;
    for (std::size_t i = 0; i < trace_.size(); ++i) {
      if (options_.speed > 0) {
        const double offset_ms =
            static_cast<double>(trace_[i].timestamp_ms - trace_[0].timestamp_ms) / options_.speed;
        const Instant due = After(begin_, Duration(static_cast<std::int64_t>(offset_ms * 1e6)));
        if (world_.clock.Now() < due)
          co_await world_.clock.SleepUntil(world_.control, std::min(due, end));
      }
      while (running_ >= options_.concurrency) co_await freed_.Wait();
      if (world_.clock.Now() >= end) co_return i;
      running_ += 1;
      Spawn(world_.control, One(i));
    }
    co_return trace_.size();
  }

  // The first target that answers tells for all. Without an answer the samples stay as they are: a
  // view that is missing is no failure of a replay.
  Task<void> TakeSample() {
    constexpr Duration kTimeout = std::chrono::seconds(3);
    for (const HttpUrl& target : options_.targets) {
      auto fetch = FetchCluster(world_, target, After(world_.clock.Now(), kTimeout));
      const Result<std::string> body = co_await std::move(fetch);
      Result<ClusterView> view =
          body ? ParseCluster(*body) : Result<ClusterView>(Fail(body.error()));
      if (!view) continue;
      before_ = std::exchange(now_, ClusterSample{std::move(*view), world_.clock.Now()});
      co_return;
    }
  }

  Task<void> KeepSampling() {
    while (!ended_) {
      co_await TakeSample();
      if (!ended_) co_await world_.clock.SleepFor(world_.control, options_.sample_interval);
    }
    sampling_ = false;
    freed_.Notify();
  }

  Task<void> One(std::size_t index) {
    const TraceRequest& request = trace_[index];
    const std::uint32_t output = std::max(1U, request.output_tokens);
    std::vector<Token> prompt = TokensOf(request, shape_.vocabulary);
    const std::string body = Body(prompt, output);
    ReplayOutcome outcome;
    outcome.prompt_tokens = request.input_tokens;
    std::vector<Token> tokens;
    const Instant sent = world_.clock.Now();
    const Instant deadline = After(sent, options_.timeout);
    for (;;) {
      auto send = Send(index, body, deadline, sent, outcome, tokens);
      const int status = co_await std::move(send);
      constexpr Duration kPause = std::chrono::milliseconds(200);
      const bool full = status == 429;
      if (!full || After(world_.clock.Now(), kPause) >= deadline) break;
      outcome.repeats += 1;
      co_await world_.clock.SleepFor(world_.control, kPause);
    }
    outcome.whole = world_.clock.Now() - sent;
    outcome.generated_tokens = static_cast<std::uint32_t>(tokens.size());
    last_answer_ = world_.clock.Now();
    if (outcome.answered && tokens.size() != output) {
      outcome.answered = false;
      outcome.error = fmt::format("{} tokens instead of {}", tokens.size(), output);
    }
    report_.Add(outcome);
    running_ -= 1;
    if (options_.verify && outcome.answered) Check(std::move(prompt), std::move(tokens));
    freed_.Notify();
  }

  void Check(std::vector<Token> prompt, std::vector<Token> tokens) {
    checking_ += 1;
    checker_->Add([this, prompt = std::move(prompt), tokens = std::move(tokens)] {
      const bool right =
          reference_.Generate(prompt, static_cast<std::uint32_t>(tokens.size())) == tokens;
      Post(world_.control, [this, right] {
        report_.AddCheck(right ? ReplayOutcome::Check::kRight : ReplayOutcome::Check::kWrong);
        checking_ -= 1;
        freed_.Notify();
      });
    });
  }

  std::string Body(std::span<const Token> prompt, std::uint32_t output) const {
    std::string body =
        fmt::format(R"({{"model":"{}","max_tokens":{},"stream":true,"timeout":{},"prompt":[)",
                    model_name_, output, std::chrono::duration<double>(options_.timeout).count());
    body.reserve(body.size() + prompt.size() * 7);
    for (const Token token : prompt) {
      body += fmt::format_int(token).c_str();
      body += ',';
    }
    body.back() = ']';
    body += '}';
    return body;
  }

  // The HTTP status, or 0 without one.
  Task<int> Send(std::size_t index, const std::string& body, Instant deadline, Instant sent,
                 ReplayOutcome& outcome, std::vector<Token>& tokens) {
    const std::size_t target = index % options_.targets.size();
    std::unique_ptr<HttpClient> client;
    if (idle_clients_[target].empty()) {
      client = std::make_unique<HttpClient>(world_, world_.control, options_.targets[target]);
    } else {
      client = std::move(idle_clients_[target].back());
      idle_clients_[target].pop_back();
    }
    outcome.error.clear();
    bool ended = false;
    EventReader events([&](const json::object& event) {
      if (event.contains("error")) {
        outcome.error = ErrorText(json::serialize(event), 0);
        return;
      }
      if (tokens.empty()) outcome.first_token = world_.clock.Now() - sent;
      if (const json::value* journey = event.if_contains("mooncake");
          journey != nullptr && journey->is_object()) {
        ended = true;
        const json::object& facts = journey->get_object();
        outcome.cached_tokens = NumberAt(facts, "prefill_cached_tokens");
        outcome.decode_cached_tokens = NumberAt(facts, "decode_cached_tokens");
        if (const json::value* paths = facts.if_contains("kv_bytes_by_path");
            paths != nullptr && paths->is_object()) {
          for (const auto& [path, bytes] : paths->get_object()) {
            json::error_code code;
            outcome.bytes_by_path[std::string(path)] += bytes.to_number<std::uint64_t>(code);
          }
        }
      }
      const json::value* choices = event.if_contains("choices");
      if (choices == nullptr || !choices->is_array() || choices->get_array().empty()) return;
      const json::value& choice = choices->get_array()[0];
      const json::value* ids =
          choice.is_object() ? choice.get_object().if_contains("token_ids") : nullptr;
      if (ids == nullptr || !ids->is_array()) return;
      for (const json::value& id : ids->get_array()) {
        json::error_code code;
        tokens.push_back(id.to_number<Token>(code));
      }
    });
    std::string raw;  // of an answer that is no stream: an error
    std::vector<std::pair<std::string, std::string>> headers = {
        {"Content-Type", "application/json"}};
    auto send = client->SendStreaming("POST", "/v1/completions", body, std::move(headers), deadline,
                                      [&](std::string_view data) {
                                        constexpr std::size_t kRawMax = 4096;
                                        if (raw.size() < kRawMax) raw += data.substr(0, kRawMax);
                                        events.Feed(data);
                                      });
    const Result<HttpResponse> response = co_await std::move(send);
    if (!response) {
      outcome.error = response.error().Text();
      co_return 0;
    }
    idle_clients_[target].push_back(std::move(client));
    outcome.answered = response->status == 200 && ended && events.done() && outcome.error.empty();
    if (!outcome.answered && outcome.error.empty())
      outcome.error = ErrorText(raw, response->status);
    co_return response->status;
  }

  World& world_;
  const Trace& trace_;
  const ReplayOptions& options_;
  ScaledShape shape_;
  std::string model_name_;
  Reference reference_;  // used by checker_ alone
  ReplayReport report_;
  std::vector<std::vector<std::unique_ptr<HttpClient>>> idle_clients_;
  std::size_t running_ = 0;
  std::size_t checking_ = 0;
  bool sampling_ = false;
  bool ended_ = false;
  std::optional<ClusterSample> before_;
  std::optional<ClusterSample> now_;
  Signal freed_;
  Instant begin_{};
  Instant last_answer_{};
  std::unique_ptr<Worker> checker_ = world_.threads.MakeWorker();
};

Task<Result<ReplayResult>> RunAll(World& world, const Trace& trace, const ReplayOptions& options,
                                  std::unique_ptr<Replayer>& replayer) {
  std::string model_id;
  for (const HttpUrl& target : options.targets) {
    constexpr Duration kStatusTimeout = std::chrono::seconds(5);
    auto fetch = FetchText(world, target, "/status", After(world.clock.Now(), kStatusTimeout));
    const Result<std::string> body = co_await std::move(fetch);
    if (!body) co_return Fail(Within("--to", body.error()));
    json::error_code code;
    const json::value status = json::parse(*body, code);
    const json::value* const served =
        !code && status.is_object() ? status.get_object().if_contains("model") : nullptr;
    if (served == nullptr || !served->is_string()) {
      co_return Fail(
          ErrorId::kNotAnInstance,
          fmt::format("--to {}: its answer to GET /status names no model", Describe(target)));
    }
    std::string theirs(served->get_string());
    if (!model_id.empty() && theirs != model_id) {
      co_return Fail(
          ErrorId::kBadRequest,
          fmt::format("the targets serve different models: {} and {}", model_id, theirs));
    }
    model_id = std::move(theirs);
  }
  const Result<ScaledShape> shape = ShapeOf(model_id);
  if (!shape) co_return Fail(shape.error());
  replayer = std::make_unique<Replayer>(world, trace, options, *shape, shape->name);
  ReplayResult result = co_await replayer->Run();
  co_return result;
}

}  // namespace

Result<ReplayResult> Replay(World& world, const Trace& trace, const ReplayOptions& options) {
  std::unique_ptr<Replayer> replayer;
  Result<ReplayResult> result = Await(world.control, RunAll(world, trace, options, replayer));
  if (replayer) replayer->Stop();
  return result;
}

}  // namespace mooncake
