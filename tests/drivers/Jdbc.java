// What an application on pgjdbc does with an access view and with the table beneath it. Run by tests/it/sql/columns/orm.rs:
// java -cp postgresql.jar Jdbc.java PORT DATABASE VIEW TABLE. Ends with an exception where something is not as docs/orm.md says.

import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;

public class Jdbc {
    static String view;
    static String table;
    static Connection db;

    static void is(Object expected, Object found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    static String one(String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = db.prepareStatement(sql)) {
            for (int at = 0; at < values.length; at++) {
                statement.setObject(at + 1, values[at]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                return rows.next() ? String.valueOf(rows.getString(1)) : "no row";
            }
        }
    }

    static SQLException fails(String state, String sql, Object... values) {
        try {
            one(sql, values);
        } catch (SQLException error) {
            is(state, error.getSQLState());
            return error;
        }
        throw new AssertionError("no error: " + sql);
    }

    static void writesThroughTheView() throws SQLException {
        String insert = "INSERT INTO " + view + " (name, iban) VALUES (?, ?)";
        long id;
        try (PreparedStatement statement = db.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            statement.setString(1, "Ada");
            statement.setString(2, "DE1");
            is(1, statement.executeUpdate());
            try (ResultSet made = statement.getGeneratedKeys()) {
                made.next();
                id = made.getLong("id");
                is("DE1", made.getString("iban"));
            }
        }
        // Often enough for a statement that the server keeps, whose values are sent in binary.
        for (int round = 0; round < 12; round++) {
            Object width = round % 2 == 0 ? (Object) id : (Object) (int) id;
            is("DE1", one("SELECT iban FROM " + view + " WHERE id = ?", width));
            is("DE1", one(
                "SELECT colcrypt.decrypt_col(iban, colcrypt.place_context('public.customer.iban', ?)) FROM " + table + " WHERE id = ?", width, id));
        }
        try (PreparedStatement statement = db.prepareStatement("UPDATE " + view + " SET iban = ? WHERE id = ?")) {
            statement.setString(1, "DE2");
            statement.setLong(2, id);
            is(1, statement.executeUpdate());
        }
        is("DE2", one("SELECT iban FROM " + view + " WHERE id = ?", id));
        try (PreparedStatement statement = db.prepareStatement(insert)) {
            for (int at = 0; at < 200; at++) {
                statement.setString(1, "many");
                statement.setString(2, "N" + at);
                statement.addBatch();
            }
            statement.executeBatch();
        }
        is("200", one("SELECT count(DISTINCT iban) FROM " + view + " WHERE name = 'many'"));
        is("23505", fails("23505", "INSERT INTO " + view + " (id, name, iban) VALUES (?, 'again', 'x') RETURNING id", id).getSQLState());
        // A null without a type would be bound to a row that no statement finds.
        fails("42P18", "SELECT colcrypt.row_context(NULL)");
    }

    static void readsByCursorAndLocksRows() throws SQLException {
        db.setAutoCommit(false);
        try (PreparedStatement statement = db.prepareStatement("SELECT id, iban FROM " + view + " WHERE name = 'many' ORDER BY id")) {
            statement.setFetchSize(7);
            int count = 0;
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) {
                    is("N" + count++, rows.getString(2));
                }
            }
            is(200, count);
        }
        String iban = one("SELECT iban FROM " + view + " WHERE name = ? ORDER BY id LIMIT 1 FOR UPDATE", "many");
        is("N0", iban);
        db.rollback();
        db.setAutoCommit(true);
    }

    static void copies() throws Exception {
        long copied = db.unwrap(PGConnection.class).getCopyAPI()
            .copyIn("COPY " + view + " (name, iban) FROM STDIN (FORMAT csv)", new StringReader("copied,C1\ncopied,C2\n"));
        is(2L, copied);
        is("C1 C2", one("SELECT string_agg(iban, ' ' ORDER BY id) FROM " + view + " WHERE name = 'copied'"));
    }

    /** An updatable ResultSet looks for a key of what stands after FROM, which a view does not have. */
    static void isNotUpdatableByResultSet() throws SQLException {
        try (Statement statement = db.createStatement(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_UPDATABLE);
                ResultSet rows = statement.executeQuery("SELECT id, name, iban FROM " + view)) {
            rows.next();
            rows.updateString("iban", "x");
            rows.updateRow();
        } catch (SQLException error) {
            if (!error.getMessage().contains("No eligible primary or unique key found")) {
                throw error;
            }
            return;
        }
        throw new AssertionError("an updatable ResultSet of a view: say so in docs/orm.md");
    }

    public static void main(String[] arguments) throws Exception {
        view = arguments[2];
        table = arguments[3];
        Properties properties = new Properties();
        properties.setProperty("user", "postgres");
        properties.setProperty("reWriteBatchedInserts", "true");
        String url = "jdbc:postgresql://127.0.0.1:" + arguments[0] + "/" + arguments[1];
        try (Connection opened = DriverManager.getConnection(url, properties)) {
            db = opened;
            writesThroughTheView();
            readsByCursorAndLocksRows();
            copies();
            isNotUpdatableByResultSet();
        }
    }
}
