// Bindings of models, executors and sessions. Long calls run without the GIL and look for signals.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/heap.h"
#include "bindings/bind.h"
#include "engine/executor.h"
#include "engine/kv_transfer.h"
#include "engine/session.h"
#include "engine/shared_pass.h"
#include "kernels/pack.h"
#include "model/weights.h"

namespace nb = nanobind;

namespace autoglm {
namespace {

using TensorTuple =
    std::tuple<std::string, std::string, std::vector<int64_t>, int64_t, uint64_t, uint64_t>;

// Lets Python run its signal handlers every 50 ms, so that Ctrl-C interrupts a long call. Only the
// main thread runs handlers; elsewhere this is empty.
Checkpoint make_signal_poll() {
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kInterval{50};
  const nb::object main_thread = nb::module_::import_("threading").attr("main_thread")();
  if (nb::cast<uint64_t>(main_thread.attr("ident")) != PyThread_get_thread_ident()) return {};
  return [next = Clock::now() + kInterval]() mutable {
    if (Clock::now() < next) return;
    const nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    next = Clock::now() + kInterval;
  };
}

std::vector<TensorEntry> to_entries(std::vector<TensorTuple> tensors) {
  std::vector<TensorEntry> entries;
  entries.reserve(tensors.size());
  for (auto& [name, dtype, shape, file_index, offset, num_bytes] : tensors) {
    entries.push_back(
        {std::move(name), std::move(dtype), std::move(shape), file_index, offset, num_bytes});
  }
  return entries;
}

std::string kv_dtype_of(const Plan& plan) {
  if (!plan.kv_dtype) return "";
  switch (*plan.kv_dtype) {
    case KvType::kF32:
      return "fp32";
    case KvType::kF16:
      return "fp16";
    default:
      return "int8";
  }
}

void set_kv_dtype(Plan& plan, const std::string& name) {
  plan.kv_dtype.reset();
  if (!name.empty()) plan.kv_dtype = parse_kv_type(name.c_str());
}

std::map<int32_t, float> logit_bias_of(const Sampling& sampling) {
  return {sampling.logit_bias.begin(), sampling.logit_bias.end()};
}

void set_logit_bias(Sampling& sampling, const std::map<int32_t, float>& bias) {
  sampling.logit_bias.assign(bias.begin(), bias.end());
}

// As autoglm.telemetry.profile.StepEvent.
using StepTuple = std::tuple<std::string, int, int, double, double, uint64_t, uint64_t, uint64_t>;

std::vector<StepTuple> stop_profile(Executor& executor) {
  std::vector<StepEvent> events;
  {
    const nb::gil_scoped_release release;  // a pass that runs now may want the GIL
    events = executor.stop_profile();
  }
  std::vector<StepTuple> out;
  for (const StepEvent& event : events) {
    out.emplace_back(step_name(event.step), event.layer, event.num_tokens, event.start_s,
                     event.seconds, event.cost.bytes, event.cost.operations, event.cost.kv_bytes);
  }
  return out;
}

std::pair<double, double> measure_limits(Executor& executor) {
  const nb::gil_scoped_release release;
  const Limits limits = executor.measure_limits();
  return {limits.read_bytes_per_s, limits.operations_per_s};
}

// As autoglm.telemetry.experts.ExpertStats; all 0 for mapped experts.
using ExpertTuple =
    std::tuple<int, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, double>;

ExpertTuple expert_stats(const Executor& executor) {
  const ExpertCache* cache = executor.expert_cache();
  const ExpertStats stats = cache != nullptr ? cache->stats() : ExpertStats{};
  return {stats.num_slots,    stats.expert_bytes, stats.num_used,
          stats.num_resident, stats.num_expected, stats.num_predicted,
          stats.num_foreseen, stats.bytes_read,   stats.wait_s};
}

// (id, natural logarithm of its probability, the likeliest tokens with theirs)
using LogprobTuple = std::tuple<int32_t, double, std::vector<std::pair<int32_t, double>>>;

std::vector<LogprobTuple> to_tuples(std::vector<TokenLogprob> logprobs) {
  std::vector<LogprobTuple> out;
  out.reserve(logprobs.size());
  for (TokenLogprob& one : logprobs) out.emplace_back(one.id, one.logprob, std::move(one.top));
  return out;
}

std::vector<LogprobTuple> session_logprobs(Session& session, const std::vector<int32_t>& ids,
                                           int num_top) {
  const Checkpoint poll = make_signal_poll();
  const nb::gil_scoped_release release;
  return to_tuples(session.logprobs(ids, num_top, poll));
}

std::vector<float> session_embed(Session& session, const std::vector<int32_t>& ids) {
  std::vector<float> out(session.executor().model().config().hidden_size);
  const Checkpoint poll = make_signal_poll();
  const nb::gil_scoped_release release;
  session.embed(ids, out.data(), poll);
  return out;
}

// A judge in Python, see autoglm.engine.base.Constraint.
class PythonJudge final : public Judge {
 public:
  // As the constants of that module.
  enum Flags : int { kAllowed = 1, kLast = 2, kBound = 4, kForced = 8, kFailed = 16 };

  explicit PythonJudge(const nb::object& constraint)
      : take_(constraint.attr("take")),
        forced_(constraint.attr("forced")),
        mask_(constraint.attr("mask")) {}

  Verdict take(int32_t id) override {
    Verdict verdict;
    call([&] {
      const int flags = nb::cast<int>(take_(id));
      if ((flags & kFailed) != 0) fail();
      verdict.is_allowed = (flags & kAllowed) != 0;
      verdict.is_last = (flags & kLast) != 0;
      verdict.is_bound = (flags & kBound) != 0;
      if ((flags & kForced) != 0) verdict.forced = nb::cast<std::vector<int32_t>>(forced_());
    });
    return verdict;
  }

  std::vector<uint32_t> mask() override {
    std::vector<uint32_t> words;
    call([&] {
      const nb::object mask = mask_();
      if (mask.is_none()) return;
      const BufferView view(mask);
      if (view.bytes().empty()) fail();
      words.resize(view.bytes().size() / sizeof(uint32_t));
      std::memcpy(words.data(), view.bytes().data(), words.size() * sizeof(uint32_t));
    });
    return words;
  }

  // Another thread that waits for the GIL gets it once, not between all the tokens of a pass.
  void ask(const std::function<void()>& body) override {
    const nb::gil_scoped_acquire acquire;
    body();
  }

 private:
  template <typename Body>
  static void call(const Body& body) {
    const nb::gil_scoped_acquire acquire;
    try {
      body();
    } catch (nb::python_error& error) {  // without its message: that may be a user's text
      const auto name = nb::cast<std::string>(error.type().attr("__name__"));
      throw Error(kFormError, "internal error (" + name + ") in the form of an answer");
    }
  }

  [[noreturn]] static void fail() {
    throw Error(kFormError, "the answer cannot keep to its grammar; a simpler one may help");
  }

  nb::object take_;
  nb::object forced_;
  nb::object mask_;
};

// The GIL is not held while the session is locked: its pass may be waiting for a judge.
void session_keep_to(Session& session, const nb::object& constraint) {
  std::shared_ptr<Judge> judge = std::make_shared<PythonJudge>(constraint);
  {
    const nb::gil_scoped_release release;
    judge = session.keep_to(std::move(judge));
  }
}

std::vector<LogprobTuple> session_take_logprobs(Session& session) {
  const nb::gil_scoped_release release;
  return to_tuples(session.take_logprobs());
}

// (session, sampling, most tokens to compute, most ids to sample)
using PassTuple = std::tuple<Session*, Sampling, int, int>;
// (ids, tokens without KV, whether an end token came, error code or 0, its message)
using OutcomeTuple = std::tuple<std::vector<int32_t>, int, bool, int, std::string>;

std::vector<OutcomeTuple> run_passes(Executor& executor, const std::vector<PassTuple>& tuples,
                                     double seconds) {
  std::vector<PassItem> items;
  for (const auto& [session, sampling, most_tokens, most_ids] : tuples) {
    items.push_back({session, sampling, most_tokens, most_ids});
  }
  const Checkpoint poll = make_signal_poll();
  const nb::gil_scoped_release release;
  std::vector<OutcomeTuple> out;
  for (PassOutcome& outcome : SharedPass(executor, items).run(seconds, poll)) {
    const int code = outcome.error ? outcome.error->code() : 0;
    out.emplace_back(std::move(outcome.ids), outcome.num_pending, outcome.is_ended, code,
                     outcome.error ? outcome.error->what() : "");
  }
  return out;
}

int num_cached(Executor& executor, const std::vector<int32_t>& ids) {
  return num_cached_tokens(executor.kv_cache(), ids);
}

std::optional<nb::bytes> read_page(Executor& executor, const std::vector<int32_t>& ids) {
  const size_t size = executor.kv_cache().page_bytes();
  const nb::bytes page = nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, size));
  if (!page.is_valid()) throw nb::python_error();
  auto* data = reinterpret_cast<std::byte*>(PyBytes_AS_STRING(page.ptr()));
  bool is_there = false;
  {
    const nb::gil_scoped_release release;
    is_there = export_page(executor.kv_cache(), ids, {data, size});
  }
  if (!is_there) return std::nullopt;
  return page;
}

bool write_page(Executor& executor, const std::vector<int32_t>& ids, nb::handle data) {
  const BufferView view(data);
  const std::span<const std::byte> bytes = view.bytes();
  const nb::gil_scoped_release release;
  return import_page(executor.kv_cache(), ids, bytes);
}

FloatMatrix session_logits(Session& session, const std::vector<int32_t>& ids) {
  const size_t vocab_size = session.executor().model().config().vocab_size;
  std::unique_ptr<float[]> values(new float[ids.size() * vocab_size]);
  const Checkpoint poll = make_signal_poll();
  {
    const nb::gil_scoped_release release;
    session.logits(ids, values.get(), poll);
  }
  return to_numpy(std::move(values), ids.size(), vocab_size);
}

void bind_config(nb::module_& m) {
  nb::class_<ModelConfig>(m, "ModelConfig",
                          "Shape and flags of a model; fields are documented in model/config.h.")
      .def(nb::init<>())
      .def_prop_rw(
          "weights", [](const ModelConfig& c) { return std::string(weight_type_name(c.weights)); },
          [](ModelConfig& c, const std::string& name) { c.weights = parse_weight_type(name); },
          "A format of matrices, as pack_rows takes it")
      .def_rw("vocab_size", &ModelConfig::vocab_size)
      .def_rw("hidden_size", &ModelConfig::hidden_size)
      .def_rw("num_layers", &ModelConfig::num_layers)
      .def_rw("num_heads", &ModelConfig::num_heads)
      .def_rw("num_kv_heads", &ModelConfig::num_kv_heads)
      .def_rw("head_dim", &ModelConfig::head_dim)
      .def_rw("intermediate_size", &ModelConfig::intermediate_size)
      .def_rw("rms_norm_eps", &ModelConfig::rms_norm_eps)
      .def_rw("rotary_dim", &ModelConfig::rotary_dim)
      .def_rw("rope_interleaved", &ModelConfig::rope_interleaved)
      .def_rw("inv_freq", &ModelConfig::inv_freq)
      .def_rw("rope_scale", &ModelConfig::rope_scale)
      .def_rw("sandwich_norms", &ModelConfig::sandwich_norms)
      .def_rw("qk_norm", &ModelConfig::qk_norm)
      .def_rw("tie_word_embeddings", &ModelConfig::tie_word_embeddings)
      .def_rw("max_position", &ModelConfig::max_position)
      .def_rw("num_experts", &ModelConfig::num_experts)
      .def_rw("num_experts_per_tok", &ModelConfig::num_experts_per_tok)
      .def_rw("num_shared_experts", &ModelConfig::num_shared_experts)
      .def_rw("moe_intermediate_size", &ModelConfig::moe_intermediate_size)
      .def_rw("first_k_dense", &ModelConfig::first_k_dense)
      .def_rw("n_group", &ModelConfig::n_group)
      .def_rw("topk_group", &ModelConfig::topk_group)
      .def_rw("routed_scaling_factor", &ModelConfig::routed_scaling_factor)
      .def_rw("norm_topk_prob", &ModelConfig::norm_topk_prob);
}

void bind_plan(nb::module_& m) {
  nb::class_<Plan>(m, "Plan", "How an Executor uses the machine.")
      .def(nb::init<>())
      .def_rw("threads", &Plan::threads, "0: physical cores")
      .def_rw("isa", &Plan::isa, "'': $AUTOGLM_ISA, else the best path")
      .def_prop_rw("kv_dtype", kv_dtype_of, set_kv_dtype,
                   "fp32, fp16, int8 or '': fp32 for fp32 weights, else fp16")
      .def_rw("activation_bits", &Plan::activation_bits,
              "16, or 8 for faster prompts: bits of quantised activations")
      .def_rw("prefill_chunk", &Plan::prefill_chunk, "tokens of a forward pass")
      .def_rw("max_context", &Plan::max_context,
              "tokens in the KV cache; 0: the longest sequence, or one window's share")
      .def_rw("window", &Plan::window,
              "attention over the first `sink` and the latest `window` tokens, rounded up to "
              "pages; 0: over all")
      .def_rw("sink", &Plan::sink)
      .def("held_tokens", held_tokens, nb::arg("num_tokens"),
           "The most tokens' pages that a sequence of this length holds at once.")
      .def_rw("expert_memory_mib", &Plan::expert_memory_mib,
              "memory for experts that are read when needed; 0: mapped as all weights");
}

void bind_sampling(nb::module_& m) {
  nb::class_<Sampling>(m, "Sampling", "How the next token is chosen; the default is greedy.")
      .def(nb::init<>())
      .def_rw("temperature", &Sampling::temperature)
      .def_rw("top_k", &Sampling::top_k)
      .def_rw("top_p", &Sampling::top_p)
      .def_rw("min_p", &Sampling::min_p)
      .def_rw("repetition_penalty", &Sampling::repetition_penalty)
      .def_rw("presence_penalty", &Sampling::presence_penalty)
      .def_rw("frequency_penalty", &Sampling::frequency_penalty)
      .def_rw("seed", &Sampling::seed)
      .def_prop_rw("logit_bias", logit_bias_of, set_logit_bias, "added to logits, by token id")
      .def_rw("eos_ids", &Sampling::eos_ids)
      .def_rw("ignore_eos", &Sampling::ignore_eos)
      .def_rw("prompt_lookup", &Sampling::prompt_lookup,
              "verify drafts from the text so far; changes speed, never a token")
      .def_rw("num_logprobs", &Sampling::num_logprobs,
              "likeliest tokens to report beside each sampled one; -1: report none");
}

void bind_model(nb::module_& m) {
  m.def("release_free_memory", release_free_memory,
        "Gives memory that was freed back to the system, where the allocator can be asked to.");
  m.def("limit_heaps", limit_heaps, nb::arg("most"),
        "Lets all threads share so many heaps at most, where the allocator can be asked to.");

  nb::class_<Model>(m, "Model", "A model's mapped, validated weights.")
      .def(
          "__init__",
          [](Model* self, ModelConfig config, const std::vector<std::string>& files,
             std::vector<TensorTuple> tensors) {
            new (self) Model(std::move(config), files, to_entries(std::move(tensors)));
          },
          nb::arg("config"), nb::arg("files"), nb::arg("tensors"),
          "tensors: (name, dtype, shape, index into files, offset in the file, size in bytes)")
      .def("start_prefault", &Model::start_prefault,
           "Maps the weights from now on, beside other work; not those of models with experts.")
      .def_prop_ro("weights_bytes", &Model::weights_bytes);

  nb::class_<Executor>(m, "Executor", "Threads, scratch and KV cache that run one model.")
      .def(
          "__init__",
          [](Executor* self, std::shared_ptr<Model> model, const Plan& plan,
             const Executor* threads_of) {
            new (self) Executor(std::move(model), plan, threads_of);
          },
          nb::arg("model"), nb::arg("plan"), nb::arg("threads_of").none() = nb::none(),
          "threads_of: another executor whose threads this one uses too, by turns")
      .def_prop_ro("isa", [](const Executor& e) { return std::string(isa_name(e.isa())); })
      .def_prop_ro("threads", &Executor::num_threads)
      .def_prop_ro("max_tokens", &Executor::max_tokens, "of the longest sequence")
      .def_prop_ro(
          "page_bytes", [](Executor& e) { return e.kv_cache().page_bytes(); },
          "memory of a KV cache page, of all layers")
      .def_prop_ro(
          "num_free_pages", [](Executor& e) { return e.kv_cache().num_free_pages(); },
          "KV cache pages that no session holds")
      .def(
          "cached_prefixes", [](Executor& e) { return e.kv_cache().prefixes(); },
          "What reusable pages stand for: token ids from the first on, latest used first.")
      .def("num_cached", num_cached, nb::arg("ids"), "Leading tokens with reusable pages.")
      .def("read_page", read_page, nb::arg("ids"),
           "The bytes of the reusable page that ends with the last of ids, or None.")
      .def("write_page", write_page, nb::arg("ids"), nb::arg("data"),
           "Makes such bytes a reusable page; False when pages before it are missing or none is "
           "free.")
      .def("start_profile", &Executor::start_profile, nb::call_guard<nb::gil_scoped_release>(),
           "Records the steps of every forward pass from now on.")
      .def("stop_profile", stop_profile,
           "The recorded steps: (name, layer or -1, tokens, start in s, seconds, bytes, "
           "operations, bytes of the KV cache).")
      .def("expert_stats", expert_stats,
           "Of experts that are read when needed, since the start: slots, bytes of an expert, "
           "experts used, in memory, on their way; predicted, foreseen; bytes read, seconds "
           "waited.")
      .def("run_passes", run_passes, nb::arg("items"), nb::arg("seconds") = Session::kNoLimit,
           "Forward passes that sessions share. items: (session, sampling, most tokens to compute, "
           "most ids to sample); returns for each (ids, tokens without KV, whether the answer "
           "ended, error code or 0, message).")
      .def_prop_ro("prefill_chunk", &Executor::prefill_chunk, "tokens of a pass")
      .def("measure_limits", measure_limits,
           "Read bandwidth in bytes/s and arithmetic peak in operations/s, of all threads.");
}

void bind_session(nb::module_& m) {
  nb::class_<DraftModel>(m, "DraftModel",
                         "A model that drafts for sessions of another with the same vocabulary.")
      .def(nb::init<std::shared_ptr<Executor>, std::shared_ptr<Executor>>(), nb::arg("executor"),
           nb::arg("target"));

  nb::class_<Session>(m, "Session", "One token sequence: prefill, then decode.")
      .def(
          "__init__",
          [](Session* self, std::shared_ptr<Executor> executor,
             std::shared_ptr<DraftModel> draft_model) {
            new (self) Session(std::move(executor), std::move(draft_model));
          },
          nb::arg("executor"), nb::arg("draft_model").none() = nb::none())
      .def(
          "prefill",
          [](Session& session, const std::vector<int32_t>& ids) {
            const Checkpoint poll = make_signal_poll();
            const nb::gil_scoped_release release;
            return session.prefill(ids, poll);
          },
          nb::arg("ids"), "Appends ids; returns how many tokens were found in the prefix cache.")
      .def(
          "decode",
          [](Session& session, int n, const Sampling& sampling, double seconds) {
            const Sampling fixed = sampling;  // Python may change the original meanwhile
            const Checkpoint poll = make_signal_poll();
            const nb::gil_scoped_release release;
            return session.decode(n, fixed, poll, seconds);
          },
          nb::arg("n"), nb::arg("sampling"), nb::arg("seconds") = Session::kNoLimit,
          "Up to n sampled tokens, ending early with an EOS id, when the context is full, or when "
          "one more step would take longer than `seconds` in all.")
      .def("logits", session_logits, nb::arg("ids"),
           "Logits [len(ids), vocab_size] of a sequence of its own, apart from the session's.")
      .def(
          "score",
          [](Session& session, const std::vector<int32_t>& ids) {
            const Checkpoint poll = make_signal_poll();
            const nb::gil_scoped_release release;
            return session.score(ids, poll);
          },
          nb::arg("ids"), "Sum over t >= 1 of -log p(ids[t] | ids[:t]).")
      .def(
          "append",
          [](Session& session, const std::vector<int32_t>& ids) {
            const nb::gil_scoped_release release;
            return session.append(ids);
          },
          nb::arg("ids"), "As prefill, but computes nothing yet: run_passes does.")
      .def("keep_to", session_keep_to, nb::arg("constraint"),
           "Asks a Constraint about every token from now on.")
      .def("take_logprobs", session_take_logprobs,
           "Of the tokens sampled since the last call: (id, logprob, [(id, logprob)]).")
      .def("logprobs", session_logprobs, nb::arg("ids"), nb::arg("num_top"),
           "Of ids[1:] in a sequence of their own, as take_logprobs.")
      .def("embed", session_embed, nb::arg("ids"), "Mean of the last hidden states.")
      .def("cancel", &Session::cancel,
           "Makes the running call, or else the next, raise code 501; from any thread.")
      .def_prop_ro("num_tokens", &Session::num_tokens)
      .def_prop_ro("num_drafted", &Session::num_drafted, "tokens drafted")
      .def_prop_ro("num_accepted", &Session::num_accepted, "drafted tokens that were right");
}

}  // namespace

void bind_engine(nb::module_& m) {
  bind_config(m);
  bind_plan(m);
  bind_sampling(m);
  bind_model(m);
  bind_session(m);
}

}  // namespace autoglm
