#include "search/expansion.h"

#include <algorithm>
#include <numeric>

namespace toolprm {

void Expansion::begin(int32_t id, bool hold) {
  Branch& beam = pool_[id];
  // As long as nothing has been sampled the root's draws are still to be made.
  beam.draws.resize(beam.companion ? 0 : beam.sampled ? options_.beam_draws : options_.root_draws);
  std::iota(beam.draws.begin(), beam.draws.end(), 0u);
  beam.greedy = options_.follow_argmax || (options_.margin > 0 && beam.on_greedy_path);
  beam.follow = false;
  take_forced(id);
  if (pool_.alive(id) && beam.next != nullptr && !beam.candidate) expand(id, hold);
}

void Expansion::take_forced(int32_t id) {
  Branch& branch = pool_[id];
  while (!branch.forced.empty() && !branch.candidate) {
    const int32_t token = branch.forced.back();
    branch.forced.pop_back();
    branch.next = nullptr;
    if (!growth_.take(branch, {token, 0, 0, 0, true})) {
      pool_.drop(id, death_text(branch.state.death));
      return;
    }
    if (growth_.too_long(branch)) {
      pool_.drop(id, "unfinished");
      return;
    }
  }
}

void Expansion::expand(int32_t id, bool hold) {
  draw(pool_[id]);
  const bool ways = options_.way_floor <= 0 && options_.follow_argmax;
  if (ways && !pool_[id].companion) add_ways(pool_[id]);
  for (Child& child : children_) add_child(id, std::move(child), hold);
  pool_.remove(id);
}

// The distinct tokens that the draws take, in the order of the first draw of each; before them the
// most likely one, where a branch follows it.
std::vector<Expansion::Child>& Expansion::draw(const Branch& parent) {
  const Distribution& next = *parent.next;
  children_.clear();
  const auto child_at = [&](int32_t place) -> Child& {
    for (Child& known : children_) {
      if (known.place == place) return known;
    }
    return children_.emplace_back(Child{place, {}});
  };
  sampler_.draw(next, log_.tree().path(parent.node), parent.draws, places_);
  const bool likeliest = (parent.greedy || parent.follow) && !next.tokens.empty();
  if (likeliest && options_.follow_argmax) child_at(0);  // the first child, before what is drawn
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i] >= 0) child_at(places_[i]).draws.push_back(parent.draws[i]);
  }
  if (likeliest) child_at(0).follow = parent.follow;  // a companion comes after what is drawn
  return children_;
}

// After a value or a call that some child ends, and in place of the first call, the most likely
// token of each continuation that no child takes.
void Expansion::add_ways(const Branch& parent) {
  const Distribution& next = *parent.next;
  known_ways_.clear();
  for (const Child& child : children_) {
    const Way taken = way(parent, next.tokens[child.place]);
    if (taken.continuation != Continuation::kNone) known_ways_.push_back(taken);
  }
  if (known_ways_.empty() && parent.step >= 0) return;
  const auto known_decision = [&](uint64_t decision) {
    return std::any_of(known_ways_.begin(), known_ways_.end(),
                       [&](const Way& known) { return known.decision == decision; });
  };
  const auto taken = [&](const Way& way) {
    return std::any_of(known_ways_.begin(), known_ways_.end(),
                       [&](const Way& known) { return known.same(way); });
  };
  for (size_t place = 0; place < next.tokens.size(); ++place) {
    if (next.logprobs[place] < options_.way_floor) break;
    const Way found = way(parent, next.tokens[place]);
    if (found.continuation == Continuation::kNone) continue;
    const bool declines = parent.step < 0 && found.continuation == Continuation::kEnd;
    if (!(declines || known_decision(found.decision)) || taken(found)) continue;
    known_ways_.push_back(found);
    children_.push_back({static_cast<int32_t>(place), {}, !found.decides});
  }
}

Way Expansion::way(const Branch& parent, int32_t token) {
  const Step* last = parent.step < 0 ? nullptr : &log_[parent.step].step;
  return ways_.find(parent.state, parent.text, last, vocabulary_.text(token),
                    vocabulary_.ends[token]);
}

void Expansion::add_child(int32_t parent, Child made, bool hold) {
  const int32_t id = pool_.fork(parent);
  Branch& child = pool_[id];
  const auto next = std::move(child.next);
  child.next = nullptr;
  child.draws = std::move(made.draws);
  child.greedy = child.greedy && made.place == 0;
  child.on_greedy_path = child.on_greedy_path && made.place == 0;
  child.companion = child.greedy && child.on_greedy_path &&
                    (child.companion || (!options_.follow_argmax && child.draws.empty()));
  child.follow = made.follow;
  child.held = hold && !child.greedy;
  const int32_t token = next->tokens[made.place];
  const float logprob = next->logprobs[made.place];
  const float behind = std::min(0.0f, logprob - next->logprobs.front());
  if (!growth_.take(child, {token, logprob, behind, next->entropy})) {
    pool_.drop(id, death_text(child.state.death));
    return;
  }
  if (!child.state.finished()) new_.push_back({id, parent, token});
  if (growth_.too_long(child)) pool_.drop(id, "unfinished");
}

}  // namespace toolprm
