// SPDX-License-Identifier: Apache-2.0
// The scripted session (tests/clients/README.md) by grpc++.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "envgate/v1/session_service.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace v1 = envgate::v1;
using Stub = v1::SessionService::Stub;

namespace {

constexpr std::chrono::milliseconds kPause(150);

void Must(const grpc::Status& status)
{
  if (status.ok())
    return;
  std::fprintf(stderr, "%s\n", status.error_message().c_str());
  std::exit(1);
}

// A method's reply; a failure ends the program.
template <typename Reply, typename Request>
Reply Call(Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*), const Request& request)
{
  grpc::ClientContext context;
  Reply reply;
  Must((stub->*method)(&context, request, &reply));
  return reply;
}

v1::Session Create(Stub* stub, const char* environment)
{
  v1::CreateSessionRequest request;
  request.set_environment(environment);
  return Call(stub, &Stub::CreateSession, request);
}

v1::StepRequest MakeStep(const v1::Session& session, const std::string& action, const std::string& request_id)
{
  v1::StepRequest request;
  request.set_session(session.name());
  request.mutable_action()->set_json(action);
  request.set_request_id(request_id);
  return request;
}

v1::StepResult Reset(Stub* stub, const v1::Session& session, int seed, const char* episode)
{
  v1::ResetRequest request;
  request.set_session(session.name());
  request.set_seed(seed);
  request.set_episode_id(episode);
  return Call(stub, &Stub::Reset, request);
}

void Show(const char* what, const v1::StepResult& r)
{
  std::printf("%s %lld reward %.2f done %d %s\n", what, static_cast<long long>(r.step_index()), r.reward(), r.done(), r.observation().json().c_str());
}

// The detail of that type that a status carries.
template <typename Detail>
Detail Find(const grpc::Status& status)
{
  google::rpc::Status details;
  Detail detail;
  details.ParseFromString(status.error_details());
  for (const auto& any : details.details())
    if (any.UnpackTo(&detail))
      return detail;
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv)
{
  if (argc != 2)
    return 2;
  auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  auto owned = v1::SessionService::NewStub(channel);
  Stub* stub = owned.get();
  v1::StepResult result;

  const v1::Session session = Create(stub, "cartpole");
  std::printf("create %s %d\n", session.environment().c_str(), session.state());
  result = Reset(stub, session, 7, "episode-1");
  Show("reset", result);
  for (int i = 0; i < 50; i++) {
    if (result.done())
      Show("reset", Reset(stub, session, 8, "episode-2"));
    result = Call(stub, &Stub::Step, MakeStep(session, "{\"action\": " + std::to_string(i % 2) + "}", "step-" + std::to_string(i)));
    Show("step", result);
  }
  v1::GetStateRequest state;
  state.set_session(session.name());
  std::printf("state %s\n", Call(stub, &Stub::GetState, state).state().json().c_str());

  {
    grpc::ClientContext context;
    const grpc::Status refused = stub->Step(&context, MakeStep(session, "{\"action\": 7}", ""), &result);
    const auto info = Find<google::rpc::ErrorInfo>(refused);
    std::printf("invalid %d %s %s %s\n", refused.error_code(), info.reason().c_str(), info.domain().c_str(),
                Find<google::rpc::BadRequest>(refused).field_violations(0).field().c_str());
  }

  const v1::Session slow = Create(stub, "slow");
  const v1::StepRequest late = MakeStep(slow, "{\"message\": \"late\"}", "late");
  {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPause);
    std::printf("deadline %d\n", stub->Step(&context, late, &result).error_code());
  }
  std::printf("collected %s\n", Call(stub, &Stub::Step, late).metadata().json().c_str());
  const v1::StepRequest never = MakeStep(slow, "{\"message\": \"never mind\"}", "never");
  {
    grpc::ClientContext context;
    std::thread cancel([&context] {
      std::this_thread::sleep_for(kPause);
      context.TryCancel();
    });
    std::printf("cancel %d\n", stub->Step(&context, never, &result).error_code());
    cancel.join();
  }
  std::printf("collected %s\n", Call(stub, &Stub::Step, never).metadata().json().c_str());

  const v1::Session echo = Create(stub, "echo");
  std::string action = "{\"message\": \"large\", \"data\": \"";
  for (int i = 0; i < 3 << 20; i++)
    action += static_cast<char>('a' + i % 26);
  const std::string large = Call(stub, &Stub::Step, MakeStep(echo, action + "\"}", "")).observation().json();
  uint32_t hash = 2166136261;
  for (unsigned char byte : large)
    hash = (hash ^ byte) * 16777619;
  std::printf("large %zu %08x\n", large.size(), hash);

  for (const v1::Session* s : {&session, &slow, &echo}) {
    v1::CloseSessionRequest close;
    close.set_name(s->name());
    Call(stub, &Stub::CloseSession, close);
  }
  grpc::ClientContext context;
  v1::GetSessionRequest get;
  v1::Session none;
  get.set_name(session.name());
  const grpc::Status gone = stub->GetSession(&context, get, &none);
  std::printf("closed %d %s\n", gone.error_code(), Find<google::rpc::ErrorInfo>(gone).reason().c_str());
  return 0;
}
