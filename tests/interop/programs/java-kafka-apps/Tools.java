// Kafka's command-line tools, many in one process, for a machine's time is short: a line says which (its class, then its
// arguments, then what it is given on standard input; all in base64, by blanks), the answer is its exit code and what it said.

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

public class Tools {
  static final class Ended extends Error {}

  // What the tool ended with, once it has: many catch what is thrown to end them, and go on.
  static Integer ended;

  static void end(int code, String message) {
    if (ended == null) {
      ended = code;
      if (message != null) System.err.println(message);
      System.setOut(new PrintStream(OutputStream.nullOutputStream()));
      System.setErr(new PrintStream(OutputStream.nullOutputStream()));
    }
    throw new Ended();
  }

  public static void main(String[] arguments) throws Exception {
    var commands = new BufferedReader(new InputStreamReader(System.in));
    PrintStream answers = System.out;
    PrintStream problems = System.err;
    Exit.setExitProcedure(Tools::end);
    Exit.setHaltProcedure(Tools::end);
    // Some tools end themselves by the machine's own signals, which end all of them here: their hooks run as they return.
    List<Runnable> hooks = new ArrayList<>();
    Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
    for (String line = commands.readLine(); line != null; line = commands.readLine()) {
      String[] words = line.split(" ", -1);
      for (int n = 0; n < words.length; n++) words[n] = new String(Base64.getDecoder().decode(words[n]), "UTF-8");
      var said = new ByteArrayOutputStream();
      try (var out = new PrintStream(said, true, "UTF-8")) {
        System.setOut(out);
        System.setErr(out);
        System.setIn(new ByteArrayInputStream(words[words.length - 1].getBytes("UTF-8")));
        ended = null;
        run(words[0], List.of(words).subList(1, words.length - 1).toArray(new String[0]));
        int code = ended == null ? 0 : ended;
        hooks.forEach(Runnable::run);
        hooks.clear();
        System.setOut(answers);
        System.setErr(problems);
        answers.println(code + " " + Base64.getEncoder().encodeToString(said.toByteArray()));
      }
    }
  }

  static void run(String tool, String[] arguments) throws Exception {
    try {
      Class.forName(tool).getMethod("main", String[].class).invoke(null, (Object) arguments);
    } catch (InvocationTargetException e) {
      if (ended == null) {
        e.getCause().printStackTrace();
        ended = 1;
      }
    }
  }
}
