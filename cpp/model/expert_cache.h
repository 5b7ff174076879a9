// Experts in a pool of memory of fixed size, read from the model's files when they are needed.
//
// For models whose experts do not fit in memory. Background threads read past the page cache;
// the caller names the experts of a layer, takes them in that order as they arrive and gives them
// back. What stays is what was used most often of late.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/checkpoint.h"
#include "model/moe.h"
#include "model/weights.h"

namespace autoglm {

// Counts since the start, but for the first three.
struct ExpertStats {
  int num_slots = 0;
  uint64_t slot_bytes = 0;
  uint64_t expert_bytes = 0;   // of the largest expert in the file
  uint64_t num_used = 0;       // experts asked for, once a layer and pass
  uint64_t num_resident = 0;   // of them in memory when asked for
  uint64_t num_expected = 0;   // of the others on their way, because the prediction was right
  uint64_t num_predicted = 0;  // experts that were predicted
  uint64_t num_foreseen = 0;   // of them right
  uint64_t bytes_read = 0;
  double wait_s = 0.0;  // that the caller waited
};

// Fills `out` from an offset of a file, as DirectFile::read(); called on several threads.
using ExpertReader =
    std::function<void(size_t file, uint64_t offset, std::span<std::byte> out, size_t needed)>;

// Reads the files of `model`, which must outlive the reader.
ExpertReader make_expert_reader(const Model& model);

// All calls but stats() come from one thread.
class ExpertCache {
 public:
  // As many slots as `budget_bytes` hold, at least one more than a token needs. Throws
  // Error(kArgumentError) when they hold fewer, Error(kOutOfMemoryError).
  ExpertCache(const Model& model, uint64_t budget_bytes, ExpertReader reader);
  ~ExpertCache();
  ExpertCache(const ExpertCache&) = delete;
  ExpertCache& operator=(const ExpertCache&) = delete;

  // Begins a layer whose `num_tokens` tokens use these experts: reads those that are missing as
  // slots become free. Ends what an abandoned pass has left.
  void start(int layer, std::span<const ExpertUse> used, int num_tokens);

  // Tells that a layer to come will probably use these: they stay, or are read when nothing else
  // is.
  void expect(int layer, std::span<const ExpertUse> used);

  // The next expert of start(), which stays where it is until release(). The first waits for it and
  // throws Error(kIoError) when it cannot be read or what the checkpoint throws; the second returns
  // null when it is not there.
  const Mlp& take_next(const Checkpoint& checkpoint);
  const Mlp* try_take_next();

  // Gives back what was taken since the last call.
  void release();

  ExpertStats stats() const;

 private:
  enum class State : uint8_t { kFree, kQueued, kReading, kReady, kFailed };
  static constexpr int kNotWanted = -1;

  struct Slot {
    State state = State::kFree;
    int expert = -1;           // number in experts_
    int rank = kNotWanted;     // in wanted_
    bool is_expected = false;  // by a layer to come
    bool is_urgent = false;    // the running layer waits for its read
    bool is_older = false;     // its read began before the running layer wanted it
    size_t next_piece = 0;
    size_t num_unread = 0;  // pieces
    std::string error;
    Mlp view;
  };
  struct Expert {
    int slot = -1;
    double heat = -std::numeric_limits<double>::infinity();  // see touch()
  };
  // Bytes of an expert that are read at once.
  struct Piece {
    size_t part = 0;
    uint64_t begin = 0;  // from the first page of the part
  };
  // How the experts of a layer lie in the file and in a slot.
  struct Layout {
    std::vector<ExpertPart> parts;  // of expert 0, those of gate_up first
    size_t num_gate_up_parts = 0;
    std::vector<uint64_t> begin;  // of each part in a slot
    std::vector<Piece> pieces;
    PackedMatrix gate_up;  // for their shapes
    PackedMatrix down;
  };
  struct Crew {
    std::mutex mutex;
    std::condition_variable has_work;
    std::condition_variable has_news;
    std::vector<std::thread> readers;
  };
  using Lock = std::unique_lock<std::mutex>;

  void add_layout(const MoeWeights& moe);
  void map_pool(uint64_t budget_bytes, size_t fewest);
  void start_readers();
  void stop_readers();
  void reader_main();
  void read_piece(Lock& lock, int slot);
  const Layout& layout_of(int number) const { return layouts_[number / num_experts_]; }
  ExpertPart part_of(int number, size_t part) const;
  Mlp view_of(int slot, int number) const;
  int number_of(int layer, int expert) const { return layer * num_experts_ + expert; }
  std::byte* memory_of(int slot) const { return pool_ + static_cast<size_t>(slot) * slot_bytes_; }

  // All with the lock held.
  void touch(int number, int num_rows);
  void end_layer();
  void end_expectations(int layer, std::span<const ExpertUse> used);
  void request_wanted();
  bool request(int number, bool is_urgent);
  void queue_read(int slot);
  int find_slot(bool is_urgent) const;
  int num_urgent_reads() const;
  void forget(int slot);
  void finish_read(int slot);
  Slot& next_wanted();
  const Mlp& take();

  const ExpertReader reader_;
  const int num_experts_;        // of a layer
  std::vector<Layout> layouts_;  // of each layer, empty for dense ones
  uint64_t slot_bytes_ = 0;      // of the largest layout
  std::byte* pool_ = nullptr;
  uint64_t pool_bytes_ = 0;
  const int process_id_;

  std::unique_ptr<Crew> crew_ = std::make_unique<Crew>();
  // Guarded by the mutex of the crew.
  std::vector<Slot> slots_;
  std::vector<Expert> experts_;
  std::deque<int> queue_;     // slots with pieces that nobody reads yet
  std::vector<int> wanted_;   // numbers of the running layer's experts
  size_t num_requested_ = 0;  // of wanted_, as the next two
  size_t num_taken_ = 0;
  size_t num_released_ = 0;
  std::vector<int> predicted_;  // numbers of predicted_layer_'s experts
  int predicted_layer_ = -1;
  double precision_ = 1.0;  // of the predictions, a moving mean
  double now_ = 0.0;        // tokens since the start
  ExpertStats stats_;
  bool is_stopping_ = false;
};

}  // namespace autoglm
