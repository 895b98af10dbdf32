// SPDX-License-Identifier: Apache-2.0
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import dev.envgate.v1.*;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** The scripted session (tests/clients/README.md) by grpc-java. */
public final class ScriptedSession {
  private static final int PAUSE_MS = 150;

  private static Payload payload(String json) {
    return Payload.newBuilder().setJson(ByteString.copyFromUtf8(json)).build();
  }

  private static StepRequest step(String session, String action, String requestId) {
    return StepRequest.newBuilder().setSession(session).setAction(payload(action)).setRequestId(requestId).build();
  }

  private static StepResult show(String what, StepResult r) {
    System.out.printf(
        Locale.ROOT,
        "%s %d reward %.2f done %d %s%n",
        what, r.getStepIndex(), r.getReward(), r.getDone() ? 1 : 0, r.getObservation().getJson().toStringUtf8());
    return r;
  }

  private static StatusRuntimeException failure(Runnable call) {
    try {
      call.run();
    } catch (StatusRuntimeException e) {
      return e;
    }
    throw new AssertionError("the call did not fail");
  }

  private static <T extends Message> T detail(StatusRuntimeException e, Class<T> type) throws InvalidProtocolBufferException {
    for (Any any : StatusProto.fromThrowable(e).getDetailsList()) {
      if (any.is(type)) {
        return any.unpack(type);
      }
    }
    throw new AssertionError("no " + type);
  }

  public static void main(String[] args) throws Exception {
    ManagedChannel channel = Grpc.newChannelBuilder(args[0], InsecureChannelCredentials.create()).build();
    SessionServiceGrpc.SessionServiceBlockingStub sessions = SessionServiceGrpc.newBlockingStub(channel);

    Session session = sessions.createSession(CreateSessionRequest.newBuilder().setEnvironment("cartpole").build());
    String name = session.getName();
    System.out.println("create " + session.getEnvironment() + " " + session.getStateValue());
    ResetRequest reset = ResetRequest.newBuilder().setSession(name).setSeed(7).setEpisodeId("episode-1").build();
    StepResult result = show("reset", sessions.reset(reset));
    for (int i = 0; i < 50; i++) {
      if (result.getDone()) {
        show("reset", sessions.reset(reset.toBuilder().setSeed(8).setEpisodeId("episode-2").build()));
      }
      result = show("step", sessions.step(step(name, "{\"action\": " + i % 2 + "}", "step-" + i)));
    }
    GetStateResponse state = sessions.getState(GetStateRequest.newBuilder().setSession(name).build());
    System.out.println("state " + state.getState().getJson().toStringUtf8());

    StatusRuntimeException refused = failure(() -> sessions.step(step(name, "{\"action\": 7}", "")));
    ErrorInfo info = detail(refused, ErrorInfo.class);
    String field = detail(refused, BadRequest.class).getFieldViolations(0).getField();
    System.out.println("invalid " + refused.getStatus().getCode().value() + " " + info.getReason() + " " + info.getDomain() + " " + field);

    String slow = sessions.createSession(CreateSessionRequest.newBuilder().setEnvironment("slow").build()).getName();
    StepRequest late = step(slow, "{\"message\": \"late\"}", "late");
    SessionServiceGrpc.SessionServiceBlockingStub hasty = sessions.withDeadlineAfter(PAUSE_MS, TimeUnit.MILLISECONDS);
    System.out.println("deadline " + failure(() -> hasty.step(late)).getStatus().getCode().value());
    System.out.println("collected " + sessions.step(late).getMetadata().getJson().toStringUtf8());
    StepRequest never = step(slow, "{\"message\": \"never mind\"}", "never");
    Context.CancellableContext context = Context.current().withCancellation();
    var timer = Executors.newSingleThreadScheduledExecutor();
    timer.schedule(() -> context.cancel(null), PAUSE_MS, TimeUnit.MILLISECONDS);
    System.out.println("cancel " + failure(() -> context.run(() -> sessions.step(never))).getStatus().getCode().value());
    timer.shutdown();
    System.out.println("collected " + sessions.step(never).getMetadata().getJson().toStringUtf8());

    String echo = sessions.createSession(CreateSessionRequest.newBuilder().setEnvironment("echo").build()).getName();
    StringBuilder action = new StringBuilder("{\"message\": \"large\", \"data\": \"");
    for (int i = 0; i < 3 << 20; i++) {
      action.append((char) ('a' + i % 26));
    }
    ByteString large = sessions.step(step(echo, action.append("\"}").toString(), "")).getObservation().getJson();
    int hash = (int) 2166136261L;
    for (byte b : large.toByteArray()) {
      hash = (hash ^ (b & 255)) * 16777619;
    }
    System.out.printf("large %d %08x%n", large.size(), hash);

    for (String each : List.of(name, slow, echo)) {
      sessions.closeSession(CloseSessionRequest.newBuilder().setName(each).build());
    }
    StatusRuntimeException gone = failure(() -> sessions.getSession(GetSessionRequest.newBuilder().setName(name).build()));
    System.out.println("closed " + gone.getStatus().getCode().value() + " " + detail(gone, ErrorInfo.class).getReason());
    channel.shutdownNow();
  }
}
