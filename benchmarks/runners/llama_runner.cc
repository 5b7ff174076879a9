// Runs llama.cpp under the protocol of protocol.py. Usage: llama_runner GGUF THREADS FLASH(0|1)
//
// A C++ program, so that neither Python's start nor its calls count against the peer.
#include <llama.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr int kContextTokens = 8192;
constexpr int kBatchTokens = 2048;
constexpr int kShortPrompt = 32;

class Engine {
 public:
  Engine(const char* path, int threads, bool has_flash_attention) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    model_ = llama_model_load_from_file(path, llama_model_default_params());
    if (model_ == nullptr) std::exit(1);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = kContextTokens;
    params.n_batch = kBatchTokens;
    params.n_threads = params.n_threads_batch = threads;
    params.flash_attn_type =
        has_flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    context_ = llama_init_from_model(model_, params);
    if (context_ == nullptr) std::exit(1);
    vocab_size_ = llama_vocab_n_tokens(llama_model_get_vocab(model_));
  }

  void reset() {
    llama_memory_clear(llama_get_memory(context_), false);
    length_ = 0;
  }

  void feed(int count) {
    while (count > 0) {
      const int part = std::min(count, kBatchTokens);
      run(random_ids(part), 1);
      count -= part;
    }
    next_ = most_likely(-1);
  }

  void decode(int count) {
    for (int i = 0; i < count; ++i) {
      run({next_}, 1);
      next_ = most_likely(-1);
    }
  }

  void rows(int count) {
    const int before = length_;
    run(random_ids(count), count);
    for (int row = 0; row < count; ++row) next_ = most_likely(row);
    llama_memory_seq_rm(llama_get_memory(context_), 0, before, -1);
    length_ = before;
  }

 private:
  // The generator of protocol.py.
  std::vector<llama_token> random_ids(int count) {
    std::vector<llama_token> ids(count);
    for (llama_token& id : ids) {
      state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
      id = static_cast<llama_token>((state_ >> 33) % vocab_size_);
    }
    return ids;
  }

  void run(const std::vector<llama_token>& ids, int keep) {
    const int count = static_cast<int>(ids.size());
    llama_batch batch = llama_batch_init(count, 0, 1);
    batch.n_tokens = count;
    for (int i = 0; i < count; ++i) {
      batch.token[i] = ids[i];
      batch.pos[i] = length_ + i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = i >= count - keep;
    }
    if (llama_decode(context_, batch) != 0) std::exit(1);
    llama_batch_free(batch);
    length_ += count;
  }

  llama_token most_likely(int row) {
    const float* logits = llama_get_logits_ith(context_, row);
    llama_token best = 0;
    for (int id = 1; id < vocab_size_; ++id) {
      if (logits[id] > logits[best]) best = id;
    }
    return best;
  }

  llama_model* model_ = nullptr;
  llama_context* context_ = nullptr;
  int vocab_size_ = 0;
  int length_ = 0;
  llama_token next_ = 0;
  uint64_t state_ = 1;
};

void repeat(Engine& engine, const std::string& command, int count, int repeats) {
  if (command == "rows") {
    engine.reset();
    engine.feed(kShortPrompt);
  }
  if (command == "decode") engine.decode(1);  // as protocol.py does
  std::string separator;
  std::cout << "{\"seconds\": [";
  for (int i = 0; i < repeats; ++i) {
    if (command == "prefill") engine.reset();
    const auto start = std::chrono::steady_clock::now();
    if (command == "prefill" || command == "extend") {
      engine.feed(count);
    } else if (command == "decode") {
      engine.decode(count);
    } else {
      engine.rows(count);
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    std::cout << separator << taken.count();
    separator = ", ";
  }
  std::cout << "]}" << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  Engine engine(argv[1], std::atoi(argv[2]), std::atoi(argv[3]) != 0);
  engine.reset();
  engine.feed(kShortPrompt);
  engine.decode(1);
  std::cout << "{\"ready\": \"llama.cpp, Q4_0\"}" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    int count = 1;
    int repeats = 1;
    words >> command >> count >> repeats;
    repeat(engine, command, count, repeats < 1 ? 1 : repeats);
  }
}
