#include "model/expert_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <system_error>
#include <tuple>

#include "base/direct_file.h"
#include "base/error.h"
#include "kernels/pack.h"

namespace autoglm {
namespace {

// Several reads at once keep a solid-state disk busy; each is long enough to be one of its own.
constexpr int kNumReaders = 4;
constexpr uint64_t kPieceBytes = uint64_t{2} << 20;
constexpr uint64_t kPage = DirectFile::kAlignment;

// A use counts half after this many tokens.
constexpr double kHalfLifeTokens = 64.0;

// Predictions are followed while this share of them comes true; of a wrong one the read is lost and
// what it displaced.
constexpr double kLeastPrecision = 0.5;
constexpr double kPrecisionWeight = 1.0 / 64.0;  // of the newest prediction in the mean

// Reads under way for which experts that are needed later in the same layer may be given up: one
// being read while another waits.
constexpr int kReadsAhead = 2;

constexpr std::chrono::milliseconds kCheckpointInterval{10};
constexpr uint64_t kMiB = uint64_t{1} << 20;

uint64_t page_of(uint64_t offset) { return offset / kPage * kPage; }
uint64_t page_end(uint64_t offset) { return page_of(offset + kPage - 1); }

}  // namespace

ExpertReader make_expert_reader(const Model& model) {
  auto files = std::make_shared<std::vector<DirectFile>>();
  for (const MmapFile& file : model.files()) files->emplace_back(file);
  return [files = std::move(files)](size_t file, uint64_t offset, std::span<std::byte> out,
                                    size_t needed) { (*files)[file].read(offset, out, needed); };
}

ExpertCache::ExpertCache(const Model& model, uint64_t budget_bytes, ExpertReader reader)
    : reader_(std::move(reader)), num_experts_(model.config().num_experts), process_id_(getpid()) {
  for (const LayerWeights& layer : model.layers()) add_layout(layer.moe);
  experts_.resize(layouts_.size() * num_experts_);
  wanted_.reserve(num_experts_);
  predicted_.reserve(num_experts_);
  map_pool(budget_bytes, model.config().num_experts_per_tok + 1);
  start_readers();
}

ExpertCache::~ExpertCache() {
  stop_readers();
  if (pool_ != nullptr) munmap(pool_, pool_bytes_);
}

// Every part gets the pages it touches in the file, wherever it begins in the first of them.
void ExpertCache::add_layout(const MoeWeights& moe) {
  Layout& layout = layouts_.emplace_back();
  if (moe.experts.empty()) return;
  layout.parts = moe.gate_up_parts;
  layout.num_gate_up_parts = layout.parts.size();
  layout.parts.insert(layout.parts.end(), moe.down_parts.begin(), moe.down_parts.end());
  layout.gate_up = moe.experts[0].gate_up.matrix;
  layout.down = moe.experts[0].down.matrix;
  uint64_t slot_bytes = 0, expert_bytes = 0;
  for (size_t p = 0; p < layout.parts.size(); ++p) {
    const uint64_t room = page_end(layout.parts[p].bytes) + kPage;
    layout.begin.push_back(slot_bytes);
    for (uint64_t begin = 0; begin < room; begin += kPieceBytes)
      layout.pieces.push_back({p, begin});
    slot_bytes += room;
    expert_bytes += layout.parts[p].bytes;
  }
  slot_bytes_ = std::max(slot_bytes_, slot_bytes);
  stats_.slot_bytes = slot_bytes_;
  stats_.expert_bytes = std::max(stats_.expert_bytes, expert_bytes);
}

void ExpertCache::map_pool(uint64_t budget_bytes, size_t fewest) {
  size_t num_all = 0;
  for (const Layout& layout : layouts_) num_all += layout.parts.empty() ? 0 : num_experts_;
  if (num_all == 0) throw Error(kArgumentError, "the model has no experts to keep in memory");
  const size_t num_slots = std::min(budget_bytes / slot_bytes_, num_all);
  if (num_slots < std::min(fewest, num_all)) {
    throw Error(kArgumentError, "expert memory of " + std::to_string(budget_bytes / kMiB) +
                                    " MiB holds " + std::to_string(num_slots) + " experts of " +
                                    std::to_string(slot_bytes_ >> 10) + " KiB, a token needs " +
                                    std::to_string(fewest) + "; give at least " +
                                    std::to_string(fewest * slot_bytes_ / kMiB + 1) + " MiB");
  }
  pool_bytes_ = num_slots * slot_bytes_;
  void* pool =
      mmap(nullptr, pool_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pool == MAP_FAILED) {
    throw Error(kOutOfMemoryError,
                "no " + std::to_string(pool_bytes_ / kMiB) + " MiB of memory for experts");
  }
#ifdef MADV_HUGEPAGE
  madvise(pool, pool_bytes_, MADV_HUGEPAGE);
#endif
  pool_ = static_cast<std::byte*>(pool);
  slots_.resize(num_slots);
  stats_.num_slots = static_cast<int>(num_slots);
}

void ExpertCache::start_readers() {
  try {
    for (int i = 0; i < kNumReaders; ++i) crew_->readers.emplace_back([this] { reader_main(); });
  } catch (const std::system_error&) {
    stop_readers();
    munmap(pool_, pool_bytes_);
    throw Error(kOutOfMemoryError, "the system refused a thread that reads experts");
  }
}

void ExpertCache::stop_readers() {
  if (getpid() != process_id_) {
    crew_.release();  // a fork copied no threads, as in ThreadPool
    return;
  }
  {
    const std::lock_guard lock(crew_->mutex);
    is_stopping_ = true;
  }
  crew_->has_work.notify_all();
  for (std::thread& reader : crew_->readers) reader.join();
}

void ExpertCache::reader_main() {
  Lock lock(crew_->mutex);
  for (;;) {
    crew_->has_work.wait(lock, [this] { return is_stopping_ || !queue_.empty(); });
    if (is_stopping_) return;
    const auto urgent = std::ranges::find_if(queue_, [this](int s) { return slots_[s].is_urgent; });
    read_piece(lock, urgent == queue_.end() ? queue_.front() : *urgent);
  }
}

// Reads the next piece of an expert with the lock given up meanwhile.
void ExpertCache::read_piece(Lock& lock, int slot) {
  Slot& target = slots_[slot];
  target.state = State::kReading;
  const Layout& layout = layout_of(target.expert);
  const Piece piece = layout.pieces[target.next_piece++];
  if (target.next_piece == layout.pieces.size()) std::erase(queue_, slot);
  const ExpertPart part = part_of(target.expert, piece.part);
  lock.unlock();
  const uint64_t begin = page_of(part.offset) + piece.begin;
  const uint64_t end = std::min(begin + kPieceBytes, page_end(part.offset + part.bytes));
  std::string error;
  if (begin < end) {
    std::byte* out = memory_of(slot) + layout.begin[piece.part] + piece.begin;
    const uint64_t needed = std::min(end, part.offset + part.bytes) - begin;
    try {
      reader_(part.file, begin, {out, end - begin}, needed);
    } catch (const Error& failure) {
      error = failure.what();
    }
  }
  lock.lock();
  stats_.bytes_read += begin < end ? end - begin : 0;
  if (!error.empty()) target.error = error;
  if (--target.num_unread == 0) finish_read(slot);
}

void ExpertCache::finish_read(int slot) {
  Slot& target = slots_[slot];
  if (!target.error.empty() && target.is_older && target.rank != kNotWanted) {
    queue_read(slot);  // the file may be whole again
    return;
  }
  target.state = target.error.empty() ? State::kReady : State::kFailed;
  if (target.state == State::kFailed && target.rank == kNotWanted) forget(slot);
  crew_->has_news.notify_all();
}

ExpertPart ExpertCache::part_of(int number, size_t part) const {
  ExpertPart found = layout_of(number).parts[part];
  found.offset += found.bytes * static_cast<uint64_t>(number % num_experts_);
  return found;
}

Mlp ExpertCache::view_of(int slot, int number) const {
  const Layout& layout = layout_of(number);
  std::vector<const std::byte*> gate_up, down;
  for (size_t p = 0; p < layout.parts.size(); ++p) {
    const std::byte* begin = memory_of(slot) + layout.begin[p] + part_of(number, p).offset % kPage;
    (p < layout.num_gate_up_parts ? gate_up : down).push_back(begin);
  }
  const auto view = [](const PackedMatrix& shape, const std::vector<const std::byte*>& parts) {
    return packed_view(shape.type, shape.rows, shape.cols, parts);
  };
  return {{view(layout.gate_up, gate_up)}, {view(layout.down, down)}};
}

void ExpertCache::start(int layer, std::span<const ExpertUse> used, int num_tokens) {
  const Lock lock(crew_->mutex);
  end_layer();
  end_expectations(layer, used);
  now_ += num_tokens;
  for (const ExpertUse& use : used) {
    const int number = number_of(layer, use.expert);
    touch(number, use.num_rows);
    if (const int s = experts_[number].slot; s >= 0) {
      slots_[s].rank = static_cast<int>(wanted_.size());
      slots_[s].is_urgent = true;
      slots_[s].is_older = slots_[s].state == State::kReading;
      ++(slots_[s].state == State::kReady ? stats_.num_resident : stats_.num_expected);
    }
    ++stats_.num_used;
    wanted_.push_back(number);
  }
  request_wanted();
}

// Slots of experts that nobody takes any more are free for others.
void ExpertCache::end_layer() {
  for (const int number : wanted_) {
    const int slot = experts_[number].slot;
    if (slot < 0) continue;
    slots_[slot].rank = kNotWanted;
    slots_[slot].is_urgent = false;
    if (slots_[slot].state == State::kFailed) forget(slot);
  }
  wanted_.clear();
  num_requested_ = num_taken_ = num_released_ = 0;
}

// Compares the prediction with what the layer uses, and drops the reads it has not begun.
void ExpertCache::end_expectations(int layer, std::span<const ExpertUse> used) {
  size_t num_right = 0;
  for (const int number : predicted_) {
    const bool is_right =
        layer == predicted_layer_ && std::ranges::any_of(used, [&](const ExpertUse& use) {
          return number_of(layer, use.expert) == number;
        });
    num_right += is_right ? 1 : 0;
    const int slot = experts_[number].slot;
    if (slot < 0) continue;
    slots_[slot].is_expected = false;
    if (!is_right && slots_[slot].state == State::kQueued) forget(slot);
  }
  if (layer == predicted_layer_ && !predicted_.empty()) {
    stats_.num_predicted += predicted_.size();
    stats_.num_foreseen += num_right;
    const double share = static_cast<double>(num_right) / static_cast<double>(predicted_.size());
    precision_ += kPrecisionWeight * (share - precision_);
  }
  predicted_.clear();
  predicted_layer_ = -1;
}

void ExpertCache::expect(int layer, std::span<const ExpertUse> used) {
  const Lock lock(crew_->mutex);
  predicted_layer_ = layer;
  predicted_.clear();
  for (const ExpertUse& use : used) predicted_.push_back(number_of(layer, use.expert));
  // What the running layer still lacks comes first.
  if (precision_ < kLeastPrecision || num_requested_ < wanted_.size()) return;
  for (const int number : predicted_) {
    if (const int slot = experts_[number].slot; slot >= 0) slots_[slot].is_expected = true;
  }
  for (const int number : predicted_) {
    if (experts_[number].slot >= 0) continue;
    if (!request(number, false)) return;
    slots_[experts_[number].slot].is_expected = true;
  }
}

const Mlp& ExpertCache::take_next(const Checkpoint& checkpoint) {
  Lock lock(crew_->mutex);
  const auto start = std::chrono::steady_clock::now();
  bool has_waited = false;
  for (;;) {
    request_wanted();
    if (num_taken_ < num_requested_) {
      const Slot& slot = next_wanted();
      if (slot.state == State::kFailed) throw Error(kIoError, slot.error);
      if (slot.state == State::kReady) break;
    }
    has_waited = true;
    if (crew_->has_news.wait_for(lock, kCheckpointInterval) == std::cv_status::timeout) {
      lock.unlock();
      checkpoint();
      lock.lock();
    }
  }
  if (has_waited) {
    stats_.wait_s +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return take();
}

const Mlp* ExpertCache::try_take_next() {
  const Lock lock(crew_->mutex);
  if (num_taken_ == num_requested_ || next_wanted().state != State::kReady) return nullptr;
  return &take();
}

ExpertCache::Slot& ExpertCache::next_wanted() { return slots_[experts_[wanted_[num_taken_]].slot]; }

const Mlp& ExpertCache::take() {
  const Mlp& view = next_wanted().view;
  ++num_taken_;
  return view;
}

void ExpertCache::release() {
  const Lock lock(crew_->mutex);
  for (; num_released_ < num_taken_; ++num_released_) {
    Slot& slot = slots_[experts_[wanted_[num_released_]].slot];
    slot.rank = kNotWanted;
    slot.is_urgent = false;
  }
  request_wanted();
}

ExpertStats ExpertCache::stats() const {
  const Lock lock(crew_->mutex);
  return stats_;
}

// The heat of an expert is the number of tokens that used it, each counted half every
// kHalfLifeTokens. It is kept as a logarithm plus time, so that two heats compare the same at any
// time.
void ExpertCache::touch(int number, int num_rows) {
  const double age = now_ / (kHalfLifeTokens * static_cast<double>(layouts_.size()));
  double& heat = experts_[number].heat;
  heat = std::log2(std::exp2(heat - age) + num_rows) + age;
}

void ExpertCache::request_wanted() {
  while (num_requested_ < wanted_.size() && request(wanted_[num_requested_], true)) {
    slots_[experts_[wanted_[num_requested_]].slot].rank = static_cast<int>(num_requested_);
    ++num_requested_;
  }
}

// False when no slot can be had now.
bool ExpertCache::request(int number, bool is_urgent) {
  if (experts_[number].slot >= 0) return true;
  const int slot = find_slot(is_urgent);
  if (slot < 0) return false;
  if (slots_[slot].state != State::kFree) forget(slot);
  Slot& target = slots_[slot];
  target.expert = number;
  target.is_urgent = is_urgent;
  target.view = view_of(slot, number);
  experts_[number].slot = slot;
  queue_read(slot);
  return true;
}

void ExpertCache::queue_read(int slot) {
  Slot& target = slots_[slot];
  target.state = State::kQueued;
  target.is_older = false;
  target.next_piece = 0;
  target.num_unread = layout_of(target.expert).pieces.size();
  target.error.clear();
  queue_.push_back(slot);
  crew_->has_work.notify_all();
}

// A free slot, else the coldest one that nobody needs. For an urgent read also what was only
// expected, and as a last resort what the running layer needs last.
int ExpertCache::find_slot(bool is_urgent) const {
  using Rank = std::tuple<int, double>;
  Rank best{3, 0.0};
  int found = -1;
  for (size_t s = 0; s < slots_.size(); ++s) {
    const Slot& slot = slots_[s];
    if (slot.state == State::kFree) return static_cast<int>(s);
    if (slot.state != State::kReady && slot.state != State::kQueued) continue;
    const bool is_wanted = slot.rank != kNotWanted;
    if (is_wanted && slot.rank < static_cast<int>(num_requested_)) continue;
    if (!is_urgent && (is_wanted || slot.is_expected)) continue;
    const Rank rank = is_wanted ? Rank{2, -slot.rank}
                                : Rank{slot.is_expected ? 1 : 0, experts_[slot.expert].heat};
    if (rank >= best) continue;
    best = rank;
    found = static_cast<int>(s);
  }
  return std::get<0>(best) == 2 && num_urgent_reads() >= kReadsAhead ? -1 : found;
}

int ExpertCache::num_urgent_reads() const {
  int count = 0;
  for (size_t i = num_taken_; i < num_requested_; ++i) {
    const State state = slots_[experts_[wanted_[i]].slot].state;
    count += state == State::kQueued || state == State::kReading ? 1 : 0;
  }
  return count;
}

void ExpertCache::forget(int slot) {
  if (slots_[slot].state == State::kQueued) std::erase(queue_, slot);
  experts_[slots_[slot].expert].slot = -1;
  slots_[slot] = {};
}

}  // namespace autoglm
